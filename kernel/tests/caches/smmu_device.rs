//! A device that does not snoop, behind the SMMU model: it writes to its mappings at every barrier and every
//! cache maintenance operation, for as long as the SMMU translates.

use super::cache_model::{CacheLine, CacheModel, LINE};
use addr::{AddrRange, Chunk, Iova, KernelVa, PAGE_SIZE, PhysAddr, StreamId};
use dma_api::{Attrs, Direction, DmaError, StreamMemory};
use drivers::fake::FakeRegisters;
use drivers::smmu::{Clock, Features, Registers, TIMEOUT_US};
use kernel::dma::fault::Quarantine;
use kernel::dma::{self, Attachment, Device, MapPlacement, counters, stream};
use kernel::iommu::Smmu;
use kernel::memory::linear;
use smmu_spec::AccessKind;
use smmu_spec::model::{IdRegisters, PhysicalMemory, RegisterFile, SmmuModel, TransactionResult};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

const STREAM: StreamId = StreamId::new(8);
const OTHER: StreamId = StreamId::new(9);

/// The registers, shared with the driver.
struct SharedRegisters(Rc<FakeRegisters>);

impl RegisterFile for SharedRegisters {
    fn get(&self, offset: usize) -> u32 {
        self.0.get32(offset)
    }
    fn set(&self, offset: usize, value: u32) {
        self.0.set32(offset, value);
    }
}

/// RAM as accessed by the SMMU, whose walks and queue accesses snoop.
struct SnoopedRam(Rc<CacheModel>);

impl PhysicalMemory for SnoopedRam {
    fn read(&self, at: u64) -> Option<u64> {
        Some(self.0.snoop(at))
    }
    fn write(&mut self, at: u64, value: u64) -> bool {
        self.0.snooping_store(at, value);
        true
    }
}

/// The memory that the device writes.
#[derive(Clone, Copy)]
struct WriteTarget {
    iova: Iova,
    len: u64,
}

/// The SMMU and the device behind it.
struct ModelBus {
    smmu: RefCell<SmmuModel<SharedRegisters, SnoopedRam>>,
    ram: Rc<CacheModel>,
    target: Cell<Option<WriteTarget>>,
    /// The number of the last write of a page, which is the value of all its words.
    written: Cell<u64>,
    time: Cell<u64>,
    /// The polls of an SMMU that hangs, and those of them with interrupts masked.
    polls: Cell<(u64, u64)>,
}

thread_local! {
    static BUS: RefCell<Option<Rc<ModelBus>>> = const { RefCell::new(None) };
}

fn installed() -> Rc<ModelBus> {
    BUS.with_borrow(Clone::clone).expect("a bus on this thread")
}

impl ModelBus {
    fn tick(&self) {
        // An SMMU that hangs costs few polls.
        let hung = self.smmu.borrow().hung;
        let step = if hung { TIMEOUT_US / 4 } else { 1 };
        let (polls, masked) = self.polls.get();
        self.polls.set((polls + u64::from(hung), masked + u64::from(hung && arch::cpu::irqs_masked())));
        self.time.set(self.time.get() + step);
        self.smmu.borrow_mut().step();
    }

    /// The device writes each page of the target that the SMMU translates.
    fn device_writes(&self) {
        let Some(WriteTarget { iova, len }) = self.target.get() else { return };
        for page in (0..len).step_by(PAGE_SIZE as usize) {
            let address = iova.raw() + page;
            let access = self.smmu.borrow_mut().access(STREAM, address, AccessKind::Write);
            if let TransactionResult::Translated { to, .. } = access {
                self.written.set(self.written.get() + 1);
                let value = self.written.get();
                for line in (0..PAGE_SIZE).step_by(LINE as usize) {
                    self.ram.device_store(PhysAddr::new(to + line), [value; (LINE / 8) as usize]);
                }
            }
        }
    }
}

/// The device behind a started SMMU.
pub struct SmmuDevice {
    bus: Rc<ModelBus>,
    smmu: &'static Smmu,
    device: Arc<Device>,
}

impl SmmuDevice {
    pub fn start(ram: &Rc<CacheModel>) -> Self {
        let registers = Rc::new(FakeRegisters::new(Registers::BYTES as usize));
        let smmu =
            SmmuModel::new(SharedRegisters(registers.clone()), SnoopedRam(ram.clone()), IdRegisters::NESTED);
        let bus = Rc::new(ModelBus {
            smmu: RefCell::new(smmu),
            ram: ram.clone(),
            target: Cell::new(None),
            written: Cell::new(0),
            time: Cell::new(0),
            polls: Cell::new((0, 0)),
        });
        BUS.set(Some(bus.clone()));
        let clock = Clock { now: || installed().time.get(), relax: || installed().tick() };
        let features = Features::probe(&registers.mmio::<Registers>()).unwrap();
        let smmu = Smmu::start(None, registers.mmio(), features, clock).unwrap();
        let smmu: &'static Smmu = Box::leak(Box::new(smmu));
        let device = Device::translated("behind the SMMU".into(), smmu, STREAM, false, &[]).unwrap();
        Self { bus, smmu, device }
    }

    /// Lets the device write to `target` at every event during `action`.
    fn while_writing(&self, target: AddrRange<Iova>, action: impl FnOnce()) {
        self.bus.target.set(Some(WriteTarget { iova: target.start(), len: target.len() }));
        self.bus.device_writes();
        self.bus.ram.on_event.set(Some(|| installed().device_writes()));
        action();
        self.bus.ram.on_event.set(None);
        let written = self.bus.written.get();
        self.bus.device_writes();
        assert_eq!(self.bus.written.get(), written, "the device still sees its mapping");
        self.bus.target.set(None);
    }

    /// Checks that the CPU sees the device's last write of each page.
    fn check(&self, view: AddrRange<KernelVa>, chunks: impl Iterator<Item = Chunk>) {
        let mut va = view.start();
        for chunk in chunks {
            for line in (0..chunk.bytes()).step_by(LINE as usize) {
                let (seen, expected) =
                    (self.bus.ram.load_line(va + line), self.bus.ram.device_load(chunk.start() + line));
                let at = chunk.start() + line;
                assert!(seen == expected, "CPU sees {:x} at {at}, not {:x}", seen[0], expected[0]);
                assert!(seen != CacheLine::default(), "the device wrote nothing");
            }
            va = va + chunk.bytes();
        }
    }

    /// A cached buffer whose attachment ends while the device writes.
    pub fn drop_attachment_while_device_writes(&self, pages: u64) {
        let buffer = dma::alloc_unattached(pages * PAGE_SIZE, Attrs::empty()).unwrap();
        let view = buffer.make_kernel_view().unwrap();
        self.bus.ram.watch(super::workload::frames(buffer.chunks()), Some(view));
        let attachment = Attachment::new(&self.device, buffer.clone(), MapPlacement::Whole).unwrap();
        self.while_writing(attachment.range(), || drop(attachment));
        self.check(view, buffer.chunks());
    }

    /// A streaming mapping that ends while the device writes.
    pub fn unmap_stream_while_device_writes(&self, pages: u64) {
        let memory = stream::Pages::new(pages * PAGE_SIZE).unwrap();
        let segment = memory.segments()[0];
        let range = AddrRange::new(segment.start, segment.start + segment.len);
        self.bus.ram.watch(super::workload::frames(Chunk::of_range(range)), None);
        let stream = stream::map(&self.device, memory, Direction::FromDevice).unwrap();
        let target = AddrRange::new(stream.iova(), stream.iova() + segment.len);
        let mut unmapped = None;
        self.while_writing(target, || unmapped = Some(stream.unmap().unwrap()));
        self.check(linear::range_of(range), Chunk::of_range(range));
        drop(unmapped);
    }

    /// Small and large mappings, which have allocators of their own, are outside the addresses that a device
    /// must not use.
    pub fn unusable_addresses_are_never_allocated(&self) {
        let range = |start, end| AddrRange::new(Iova::new(start), Iova::new(end));
        // The lowest addresses, and some of the first table of small mappings.
        let unusable = [range(0, 0x4000_0000), range(0xffd0_0000, 0xffd0_1000)];
        let stream = StreamId::new(9);
        let device = Device::translated("limited".into(), self.smmu, stream, false, &unusable).unwrap();
        let attachments: Vec<_> = (0..200)
            .map(|number| {
                let buffer = dma::alloc_unattached([1, 16, 17][number % 3] * PAGE_SIZE, Attrs::empty());
                Attachment::new(&device, buffer.unwrap(), MapPlacement::Whole).unwrap()
            })
            .collect();
        for used in attachments.iter().map(Attachment::range) {
            assert!(unusable.iter().all(|range| !range.overlaps(&used)), "{used:?} is unusable");
        }
    }

    /// The SMMU does not confirm the invalidation: the frames, which the device still writes, are not reused.
    pub fn frames_of_unconfirmed_unmap_stay_in_use(&self) {
        let buffer = dma::alloc_unattached(PAGE_SIZE, Attrs::empty()).unwrap();
        let frame = buffer.chunks().next().unwrap();
        let attachment = Attachment::new(&self.device, buffer, MapPlacement::Whole).unwrap();
        let target = attachment.range();
        let access = || self.bus.smmu.borrow_mut().access(STREAM, target.start().raw(), AccessKind::Write);
        assert!(matches!(access(), TransactionResult::Translated { .. }));
        let lost = counters::read().lost_bytes.now;
        self.bus.smmu.borrow_mut().hung = true;
        drop(attachment);
        assert!(matches!(access(), TransactionResult::Translated { .. }), "the IOTLB entry is gone");
        assert_eq!(counters::read().lost_bytes.now - lost, PAGE_SIZE);
        self.bus.smmu.borrow_mut().hung = false;
        let others: Vec<_> =
            (0..64).map(|_| dma::alloc_unattached(PAGE_SIZE, Attrs::empty()).unwrap()).collect();
        let reused =
            others.iter().flat_map(|other| other.chunks()).any(|chunk| chunk.start() == frame.start());
        assert!(!reused, "old data: the frame has a new owner while the device writes it");
        let attach = |other| Attachment::new(&self.device, other, MapPlacement::Whole).unwrap();
        let attachments: Vec<_> = others.into_iter().map(attach).collect();
        let reused = attachments.iter().any(|attachment| attachment.range().overlaps(&target));
        assert!(!reused, "old data: the IOVA has a new mapping, but an entry in the IOTLB");
    }

    /// GERROR.SFM_ERR (IHI 0070, 12.3): the SMMU aborts all transactions and executes no command. It is not
    /// usable afterwards.
    pub fn service_failure_quarantines_each_device_behind_the_smmu(&self) {
        kernel::dma::fault::start().unwrap();
        let third = StreamId::new(10);
        let other = Device::translated("third".into(), self.smmu, third, false, &[]).unwrap();
        let devices = [&self.device, &other];
        let armed = || devices.map(|device| device.arm_generation().is_some());
        self.smmu.service();
        assert_eq!(armed(), [true; 2]);
        self.bus.smmu.borrow_mut().enter_service_failure();
        self.smmu.service();
        assert_eq!(armed(), [false; 2], "the quarantine is not pending");
        for device in devices {
            // As the thread does.
            Quarantine::quarantine(&**device);
            assert!(device.is_quarantined());
        }
    }

    /// Runs `action` with an SMMU that does not respond, which must be polled with interrupts enabled.
    fn while_hung<R>(&self, name: &str, action: impl FnOnce() -> R) -> R {
        self.bus.polls.set((0, 0));
        self.bus.smmu.borrow_mut().hung = true;
        let result = action();
        self.bus.smmu.borrow_mut().hung = false;
        let (polls, masked) = self.bus.polls.get();
        assert!(polls > 0, "{name}: the SMMU was not polled");
        assert_eq!(masked, 0, "{name}: of {polls} polls with interrupts masked");
        result
    }

    /// The stream table entry, a table that an unmap empties, and the tag of a domain.
    pub fn configuration_waits_with_interrupts_enabled(&self) {
        // SAFETY: no guard exists on this thread.
        unsafe { arch::cpu::unmask_irqs() };
        let timed_out = Err(DmaError::IommuTimeout);
        assert_eq!(self.while_hung("detach", || self.device.block()), timed_out);
        self.device.block().unwrap();
        assert_eq!(self.while_hung("attach", || self.device.unblock()), timed_out);
        self.device.unblock().unwrap();
        let attach = |pages| {
            let buffer = dma::alloc_unattached(pages * PAGE_SIZE, Attrs::empty()).unwrap();
            Attachment::new(&self.device, buffer, MapPlacement::Whole).unwrap()
        };
        // Above the size of a small mapping; the domain keeps one empty table.
        let (first, second) = (attach(513), attach(513));
        drop(first);
        self.while_hung("unmap", || drop(second));
        let other =
            Device::translated("other".into(), self.device.smmu().unwrap(), OTHER, false, &[]).unwrap();
        self.while_hung("destroy", || drop(other));
    }
}

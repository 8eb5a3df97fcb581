//! Message-signalled interrupts of the `edu`: targets, masks and freed events.

use super::device::{edu, write_out};
use super::{Outcome, Test};
use crate::{check, pass, skip};
use addr::PAGE_SIZE;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use dma_api::Attrs;
use drivers::pcie::{Bdf, Message, Phandle};
use kernel::devices::dma_engine::DmaEngineDevice;
use kernel::devices::pci::{self, PciHost};
use kernel::dma::{self, Attachment};
use kernel::irq::Handler;
use kernel::msi::{self, MessageVectors};
use kernel::percpu::{self, MAX_CPUS};
use kernel::sched;

pub const TESTS: &[Test] = &[
    Test { name: "msi.completion_arrives_at_the_chosen_cpu", run: completion_arrives_at_the_chosen_cpu },
    Test { name: "msi.masked_vector_delivers_nothing", run: masked_vector_delivers_nothing },
    Test { name: "msi.message_of_a_freed_vector_is_ignored", run: message_of_a_freed_vector_is_ignored },
];

/// The limit on the arrival of a message that the device has sent.
const ARRIVAL_NS: u64 = 2_000_000_000;
/// The time in which a message would arrive.
const QUIET_NS: u64 = 50_000_000;

/// Counts interrupts by CPU, and passes them on to the device.
struct ArrivalCounter {
    edu: &'static DmaEngineDevice,
    counts: [AtomicU32; MAX_CPUS],
}

impl ArrivalCounter {
    fn new(edu: &'static DmaEngineDevice) -> Arc<Self> {
        Arc::new(Self { edu, counts: [const { AtomicU32::new(0) }; MAX_CPUS] })
    }

    fn total(&self) -> u32 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Waits for interrupts until there are `count`.
    fn wait_for(&self, count: u32) -> bool {
        let deadline = sched::time::now() + ARRIVAL_NS;
        while self.total() < count && sched::time::now() < deadline {
            sched::yield_now();
        }
        self.total() == count
    }
}

impl Handler for ArrivalCounter {
    fn handle(&self) {
        self.counts[arch::cpu::index()].fetch_add(1, Relaxed);
        self.edu.handle();
    }
}

/// Counts the messages of the device; the driver's handler is set again when it is dropped.
struct MessageTest {
    edu: &'static DmaEngineDevice,
    vectors: &'static MessageVectors,
    counter: Arc<ArrivalCounter>,
    buffer: Attachment,
}

impl MessageTest {
    fn start(edu: &'static DmaEngineDevice, vectors: &'static MessageVectors) -> Result<Self, String> {
        let buffer = dma::alloc(edu.device(), PAGE_SIZE, Attrs::NO_KERNEL_MAPPING);
        let buffer = buffer.map_err(|error| error.to_string())?;
        let counter = ArrivalCounter::new(edu);
        vectors.set_handler(0, Some(counter.clone()));
        Ok(Self { edu, vectors, counter, buffer })
    }

    fn transfer(&self) -> Result<(), String> {
        write_out(self.edu, self.buffer.range().start(), 16)
    }
}

impl Drop for MessageTest {
    fn drop(&mut self) {
        if let Err(error) = self.vectors.set_affinity(0, 0).and_then(|()| self.vectors.unmask(0)) {
            log::error!("{error}");
        }
        self.vectors.set_handler(0, Some(Arc::new(self.edu)));
    }
}

/// The device and its vector, or the reason of a skip.
fn device() -> Result<(&'static DmaEngineDevice, &'static MessageVectors), &'static str> {
    let edu = edu().ok_or("no DMA engine")?;
    if !edu.reaches_memory() {
        return Err("the device does not reach memory");
    }
    edu.messages().map(|vectors| (edu, vectors)).ok_or("its interrupt is a wire")
}

fn completion_arrives_at_the_chosen_cpu() -> Outcome {
    let (edu, vectors) = match device() {
        Ok(found) => found,
        Err(reason) => skip!("{reason}"),
    };
    let Message { address, data } = vectors.message(0);
    if edu.device().domain().is_translated() {
        check!(address >> 21 == 0xffe0_0000 >> 21, "the doorbell is at {address:#x}");
    }
    let counted = MessageTest::start(edu, vectors)?;
    let cpus = percpu::online_indices().filter(|&cpu| percpu::is_online(cpu));
    for (round, cpu) in (1..).zip(cpus.clone().rev()) {
        vectors.set_affinity(0, cpu).map_err(|error| error.to_string())?;
        counted.transfer()?;
        check!(counted.counter.wait_for(round), "{} messages after {round}", counted.counter.total());
        let here = counted.counter.counts[cpu].load(Relaxed);
        check!(here == 1, "{here} messages at CPU {cpu}");
    }
    pass!("message {address:#x} with {data} at {} CPUs", cpus.count())
}

fn masked_vector_delivers_nothing() -> Outcome {
    let (edu, vectors) = match device() {
        Ok(found) => found,
        Err(reason) => skip!("{reason}"),
    };
    let counted = MessageTest::start(edu, vectors)?;
    vectors.mask(0).map_err(|error| error.to_string())?;
    counted.transfer()?;
    wait_ns(QUIET_NS);
    let masked = counted.counter.total();
    check!(masked == 0, "{masked} messages of a masked vector");
    vectors.unmask(0).map_err(|error| error.to_string())?;
    check!(counted.counter.wait_for(1), "the pending message was lost");
    counted.transfer()?;
    check!(counted.counter.wait_for(2), "{} messages after unmasking", counted.counter.total());
    pass!("none while masked, the pending one afterwards")
}

fn wait_ns(time: u64) {
    let end = sched::time::now() + time;
    while sched::time::now() < end {
        sched::yield_now();
    }
}

/// The function of a device, and its controller of messages.
fn function_of(edu: &DmaEngineDevice) -> Option<(&'static PciHost, Bdf, Phandle, u32)> {
    (0..).map_while(pci::host).find_map(|host| {
        let locked = host.lock();
        let function = locked.functions().iter().find(|one| one.bdf.to_string() == edu.device().name())?;
        let (phandle, id) = locked.message_controller(function)?;
        Some((host, function.bdf, phandle, id))
    })
}

/// The device sends a message of another vector, while that exists and after it was freed.
fn message_of_a_freed_vector_is_ignored() -> Outcome {
    let (edu, vectors) = match device() {
        Ok(found) => found,
        Err(reason) => skip!("{reason}"),
    };
    let Some((host, bdf, phandle, id)) = function_of(edu) else { skip!("it is not a PCI function") };
    let counted = MessageTest::start(edu, vectors)?;
    let counter = ArrivalCounter::new(edu);
    let others = msi::alloc(phandle, id, 3, edu.device()).map_err(|error| error.to_string())?;
    check!(others.len() == 3 && others.message(1).data == others.message(0).data + 1, "three in order");
    others.set_handler(2, Some(counter.clone()));
    others.unmask(2).map_err(|error| error.to_string())?;
    let send = |message| host.lock().enable_msi(bdf, message).map_err(|error| error.to_string());
    let other = others.message(2);
    send(other)?;
    let result = counted.transfer();
    let arrived = counter.wait_for(1);
    drop(others);
    let stray = result.and_then(|()| counted.transfer());
    wait_ns(QUIET_NS);
    let total = counter.total();
    send(vectors.message(0))?;
    stray?;
    check!(arrived && total == 1, "{total} messages, one of them before the vector was freed");
    check!(Arc::strong_count(&counter) == 1, "the handler is still in use");
    counted.transfer()?;
    check!(counted.counter.wait_for(1), "{} messages of the first vector", counted.counter.total());
    pass!("one of {:#x}, none afterwards", other.data)
}

//! From the loader's jump to `kernel_main`, and what is known about the image.
//!
//! boot.s enters at EL3, EL2 or EL1, goes down to EL1, maps the image at its link address in 4 KiB pages with the
//! final permissions, turns MMU and caches on and calls [`boot_cpu_main`] on the first stack. Until the kernel installs
//! its own tables, [`map_early_device`] and [`map_early_dtb`] reach a UART and the device tree.
//!
//! What a loader that enters at EL3 owes: all interrupts in Group 1 (the group registers are Secure, and their
//! addresses are in a device tree we have not read yet) and CNTFRQ_EL0. CPUs that come along with the boot CPU wait for
//! [`release_parked`].

use addr::{AddrRange, KernelVa, PhysAddr};

/// What the loader left, as `kernel_main` gets it.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// x0 at entry: the device tree by the boot protocol, but check its magic; ELF loaders leave 0.
    pub dtb: PhysAddr,
    /// The image in memory, with .bss and stacks.
    pub image: AddrRange<PhysAddr>,
    /// The exception level of entry, 1 to 3.
    pub entry_el: u8,
}

/// Where the image is linked.
pub const IMAGE_BASE: KernelVa = KernelVa::new(0xffff_8000_0000_0000);
/// Where the linear map would have physical address 0.
pub const LINEAR_BASE: KernelVa = KernelVa::new(0xffff_0000_0000_0000);
/// Where [`map_early_device`] starts. The final layout has device registers there too.
pub const EARLY_DEVICES: KernelVa = KernelVa::new(0xffff_a000_0000_0000);
/// Where [`map_early_dtb`] maps the device tree.
pub const EARLY_DTB: KernelVa = KernelVa::new(0xffff_c000_0000_0000);

/// What a part of the image may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// Read and execute.
    Text,
    /// Read.
    Rodata,
    /// Read and write.
    Data,
    /// Read and write, with an unmapped guard page below.
    Stack,
}

/// A part of the image with one set of permissions, whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// What for.
    pub kind: SectionKind,
    /// Where it is linked.
    pub virt: AddrRange<KernelVa>,
    /// Where it was loaded.
    pub phys: PhysAddr,
}

/// Why there is no device tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyDtbError {
    /// The address is 0 or not a multiple of 8.
    NoAddress(PhysAddr),
    /// The first word is not the magic number.
    BadMagic(u32),
    /// `totalsize` is above the 2 MiB that the boot protocol allows.
    TooLarge(u32),
}

/// What a secondary CPU needs to get going; it reads this with its MMU off, so the three words must be cleaned to the
/// point of coherency.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SecondaryArgs {
    /// The kernel's final table.
    pub ttbr1: PhysAddr,
    /// The top of its stack, 16-byte aligned.
    pub stack_top: KernelVa,
    /// Its number, below [`MAX_CPUS`](crate::cpu::MAX_CPUS).
    pub index: u64,
}

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::{barrier, cache, cpu, exception};
    use aarch64_cpu::registers::{TTBR0_EL1, Writeable};
    use addr::{Address, Chunk, PAGE_SIZE};
    use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

    core::arch::global_asm!(include_str!("boot.s"), options(raw));

    const BLOCK: u64 = 2 << 20;
    const TABLE: u64 = 0b11;
    /// Level 2 block: UXN, PXN, not global no, AF; read-write, Device-nGnRE (MAIR index 2).
    const DEVICE_BLOCK: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 2 << 2 | 0b01;
    /// Level 2 block: UXN, PXN, AF, inner shareable; read-only, write-back (MAIR index 0).
    const READ_ONLY_BLOCK: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 3 << 8 | 2 << 6 | 0b01;
    /// Level 2 block: the same, writable.
    const NORMAL_BLOCK: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 3 << 8 | 0b01;
    /// Level 3 page: the same.
    const STACK_PAGE: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 3 << 8 | 0b11;

    #[repr(C, align(4096))]
    struct Tables<const N: usize>([AtomicU64; N]);

    impl<const N: usize> Tables<N> {
        const fn empty() -> Self {
            Self([const { AtomicU64::new(0) }; N])
        }
    }

    // Filled by boot.s, by these names.
    #[unsafe(no_mangle)]
    static EARLY_ROOT: Tables<512> = Tables::empty();
    #[unsafe(no_mangle)]
    static EARLY_L1: Tables<512> = Tables::empty();
    #[unsafe(no_mangle)]
    static EARLY_L2: Tables<512> = Tables::empty();
    /// Eight level 3 tables in a row: 16 MiB of image, indexed by the page's place in it.
    #[unsafe(no_mangle)]
    static EARLY_PAGES: Tables<4096> = Tables::empty();
    /// One table of each level: a single page, boot.s's .idmap, at its physical address.
    #[unsafe(no_mangle)]
    static IDENTITY_TABLES: Tables<2048> = Tables::empty();

    static DEVICE_L1: Tables<512> = Tables::empty();
    static DEVICE_L2: Tables<512> = Tables::empty();
    static DEVICES: AtomicUsize = AtomicUsize::new(0);
    static LINEAR_L1: Tables<512> = Tables::empty();
    static LINEAR_L2: Tables<512> = Tables::empty();
    static DTB_L1: Tables<512> = Tables::empty();
    static DTB_L2: Tables<512> = Tables::empty();
    /// An empty table for TTBR0 while no program runs.
    static NO_USER: Tables<512> = Tables::empty();

    /// Physical minus virtual address of the image, modulo 2^64.
    static IMAGE_OFFSET: AtomicU64 = AtomicU64::new(0);

    /// Affinity and SecondaryArgs address for a CPU that waits in boot.s. In .data: .bss is zeroed under its eyes.
    #[repr(C, align(128))]
    struct Parked {
        affinity: AtomicU64,
        args: AtomicU64,
    }
    #[unsafe(no_mangle)]
    #[unsafe(link_section = ".data.parked")]
    static PARKED: Parked = Parked { affinity: AtomicU64::new(0), args: AtomicU64::new(0) };

    unsafe extern "C" {
        // Addresses only (linker.ld, boot.s).
        static __image_start: u8;
        static __image_end: u8;
        static __text_start: u8;
        static __text_end: u8;
        static __rodata_start: u8;
        static __rodata_end: u8;
        static __data_start: u8;
        static __data_end: u8;
        static __boot_stack_bottom: u8;
        static __boot_stack_top: u8;
        static __emergency_stacks: u8;

        fn secondary_start();
        fn parking_lot();
        fn idmap_replace_ttbr1();
    }

    #[expect(improper_ctypes, reason = "both sides are Rust, and only a pointer crosses")]
    unsafe extern "C" {
        // The kernel crate's.
        fn kernel_main(boot: &BootInfo) -> !;
        fn secondary_main(cpu: usize) -> !;
    }

    /// The range between two symbols of the linker script.
    macro_rules! symbols {
        ($start:ident, $end:ident) => {
            AddrRange::new(KernelVa::new((&raw const $start) as u64), KernelVa::new((&raw const $end) as u64))
        };
    }

    /// Where a part of the image was loaded.
    pub fn image_phys(va: KernelVa) -> PhysAddr {
        PhysAddr::new(va.raw().wrapping_add(IMAGE_OFFSET.load(Relaxed)))
    }

    /// The stack below which CPU `index` has a guard page, for when its own stack overflowed.
    pub fn emergency_stack(index: usize) -> AddrRange<KernelVa> {
        let stride = PAGE_SIZE + cpu::EMERGENCY_STACK_SIZE;
        let guard = (&raw const __emergency_stacks) as u64 + stride * index as u64;
        AddrRange::new(KernelVa::new(guard + PAGE_SIZE), KernelVa::new(guard + stride))
    }

    /// The first stack.
    pub fn boot_stack() -> AddrRange<KernelVa> {
        symbols!(__boot_stack_bottom, __boot_stack_top)
    }

    /// All that the final tables must map of the image. What is between the parts is guard pages.
    pub fn sections() -> impl Iterator<Item = Section> {
        let fixed = [
            (SectionKind::Text, symbols!(__text_start, __text_end)),
            (SectionKind::Rodata, symbols!(__rodata_start, __rodata_end)),
            (SectionKind::Data, symbols!(__data_start, __data_end)),
            (SectionKind::Stack, boot_stack()),
        ];
        let emergency = (0..cpu::MAX_CPUS).map(|index| (SectionKind::Stack, emergency_stack(index)));
        fixed.into_iter().chain(emergency).map(|(kind, virt)| Section {
            kind,
            virt,
            phys: image_phys(virt.start()),
        })
    }

    /// Where CPU_ON has to send a CPU, with the physical address of its [`SecondaryArgs`] as context.
    pub fn secondary_entry() -> PhysAddr {
        image_phys(KernelVa::new(secondary_start as *const () as u64))
    }

    /// The tables that map one page of code at its physical address, for TTBR0.
    pub(crate) fn identity_root() -> PhysAddr {
        table_phys(&IDENTITY_TABLES)
    }

    /// The code in that page which changes TTBR1 (boot.s).
    pub(crate) fn replace_ttbr1_code() -> PhysAddr {
        image_phys(KernelVa::new(idmap_replace_ttbr1 as *const () as u64))
    }

    /// A table with nothing in it.
    pub(crate) fn no_tables() -> PhysAddr {
        table_phys(&NO_USER)
    }

    /// Where to send a CPU without a context, to wait for [`release_parked`]: what a spin table takes (`cpu-release-addr`).
    pub fn parking_entry() -> PhysAddr {
        image_phys(KernelVa::new(parking_lot as *const () as u64))
    }

    /// Sends the CPU with this affinity to [`secondary_entry`] with the physical address of its [`SecondaryArgs`], if it waits
    /// in boot.s: since the loader started it together with the boot CPU, or sent it to [`parking_entry`]. One at a time: the
    /// next only when this one is seen to run.
    pub fn release_parked(affinity: u64, args: PhysAddr) {
        let line = AddrRange::new(
            KernelVa::new(core::ptr::from_ref(&PARKED) as u64),
            KernelVa::new(core::ptr::from_ref(&PARKED) as u64 + size_of::<Parked>() as u64),
        );
        // The waiting CPU has its caches off, and must never see the new affinity with the old arguments.
        PARKED.args.store(0, Relaxed);
        cache::clean(line);
        PARKED.affinity.store(affinity, Relaxed);
        cache::clean(line);
        PARKED.args.store(args.raw(), Relaxed);
        cache::clean(line);
        cpu::sev();
    }

    fn table_phys<const N: usize>(table: &'static Tables<N>) -> PhysAddr {
        image_phys(KernelVa::new(core::ptr::from_ref(table) as u64))
    }

    /// Links the two tables under the root's entry for `va`; again is harmless.
    fn link(va: KernelVa, l1: &'static Tables<512>, l2: &'static Tables<512>) {
        let root_index = (va.raw() >> 39 & 0x1ff) as usize;
        l1.0[0].store(table_phys(l2).raw() | TABLE, Relaxed);
        EARLY_ROOT.0[root_index].store(table_phys(l1).raw() | TABLE, Relaxed);
    }

    /// Makes new entries of the early tables usable; what was invalid before needs no TLBI.
    fn publish() {
        barrier::dsb_ishst();
        barrier::isb();
    }

    /// Maps the 2 MiB around `pa` as Device-nGnRE and returns where `pa` is. Valid until the kernel installs its own
    /// tables. Panics after 512 calls.
    pub fn map_early_device(pa: PhysAddr) -> KernelVa {
        let slot = DEVICES.fetch_add(1, Relaxed);
        link(EARLY_DEVICES, &DEVICE_L1, &DEVICE_L2);
        DEVICE_L2.0[slot].store(pa.align_down(BLOCK).raw() | DEVICE_BLOCK, Relaxed);
        publish();
        EARLY_DEVICES + slot as u64 * BLOCK + pa.raw() % BLOCK
    }

    /// Maps the device tree at `pa` read-only and returns where all of it is, in whole bytes of its `totalsize`. Valid
    /// until the kernel installs its own tables.
    ///
    /// One 2 MiB block first, since the boot protocol promises no more than that it is memory; a second one only if
    /// the header says that the tree goes on there.
    pub fn map_early_dtb(pa: PhysAddr) -> Result<AddrRange<KernelVa>, EarlyDtbError> {
        if pa.raw() == 0 || !pa.is_aligned(8) {
            return Err(EarlyDtbError::NoAddress(pa));
        }
        let block = pa.align_down(BLOCK);
        let offset = pa.raw() % BLOCK;
        link(EARLY_DTB, &DTB_L1, &DTB_L2);
        DTB_L2.0[0].store(block.raw() | READ_ONLY_BLOCK, Relaxed);
        publish();
        let start = EARLY_DTB + offset;
        // SAFETY: the eight bytes are mapped by the block above (8-byte alignment keeps them inside it), aligned, and
        // nobody writes them.
        let [magic, size] = unsafe { *(start.raw() as *const [u32; 2]) }.map(u32::from_be);
        if magic != 0xd00d_feed {
            return Err(EarlyDtbError::BadMagic(magic));
        }
        if u64::from(size) > BLOCK {
            return Err(EarlyDtbError::TooLarge(size));
        }
        if offset + u64::from(size) > BLOCK {
            DTB_L2.0[1].store((block.raw() + BLOCK) | READ_ONLY_BLOCK, Relaxed);
            publish();
        }
        Ok(AddrRange::new(start, start + u64::from(size)))
    }

    /// Maps `chunk` (2 MiB or more of RAM) writable where the linear map will have it: as far above
    /// [`LINEAR_BASE`] as it is above physical address 0. Valid until the kernel installs its own tables. Called once.
    pub fn map_early_linear(chunk: Chunk) {
        assert!(chunk.bytes() >= BLOCK, "{chunk:?} is smaller than a block");
        let (root, l1) = (chunk.start().raw() >> 39 & 0x1ff, chunk.start().raw() >> 30 & 0x1ff);
        for block in (0..chunk.bytes()).step_by(BLOCK as usize).map(|offset| chunk.start() + offset) {
            LINEAR_L2.0[(block.raw() >> 21 & 0x1ff) as usize].store(block.raw() | NORMAL_BLOCK, Relaxed);
        }
        LINEAR_L1.0[l1 as usize].store(table_phys(&LINEAR_L2).raw() | TABLE, Relaxed);
        EARLY_ROOT.0[root as usize].store(table_phys(&LINEAR_L1).raw() | TABLE, Relaxed);
        publish();
    }

    /// boot.s leaves the emergency stacks to us: 4 KiB pages with a guard between any two.
    fn map_emergency_stacks() {
        for stack in (0..cpu::MAX_CPUS).map(emergency_stack) {
            for page in 0..stack.len() / PAGE_SIZE {
                let va = stack.start() + page * PAGE_SIZE;
                let index = (va.raw() - IMAGE_BASE.raw()) / PAGE_SIZE;
                EARLY_PAGES.0[index as usize].store(image_phys(va).raw() | STACK_PAGE, Relaxed);
            }
        }
        publish();
    }

    /// Takes the identity map out of TTBR0.
    pub(crate) fn leave_identity_map() {
        TTBR0_EL1.set(table_phys(&NO_USER).raw());
        barrier::isb();
        // SAFETY: drops translations of this CPU, which are walked again on use; the identity map has no user left.
        unsafe { core::arch::asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
    }

    /// The boot CPU's first Rust: MMU on, first stack, exceptions still masked.
    #[unsafe(no_mangle)]
    extern "C" fn boot_cpu_main(dtb: u64, image: u64, entry_el: u64) -> ! {
        IMAGE_OFFSET.store(image.wrapping_sub(IMAGE_BASE.raw()), Relaxed);
        map_emergency_stacks();
        cpu::install(0);
        exception::install();
        leave_identity_map();
        let size = (&raw const __image_end) as u64 - (&raw const __image_start) as u64;
        let boot = BootInfo {
            dtb: PhysAddr::new(dtb),
            image: AddrRange::new(PhysAddr::new(image), PhysAddr::new(image + size)),
            entry_el: entry_el as u8,
        };
        // SAFETY: defined by the kernel crate with this signature.
        unsafe { kernel_main(&boot) }
    }

    /// A secondary CPU's first Rust: final tables, its own stack, exceptions still masked.
    #[unsafe(no_mangle)]
    extern "C" fn secondary_cpu_main(index: usize) -> ! {
        cpu::install(index);
        exception::install();
        leave_identity_map();
        // SAFETY: defined by the kernel crate with this signature.
        unsafe { secondary_main(index) }
    }
}

/// On a host the image is where a loader on QEMU's virt board would put it, and nothing is mapped.
#[cfg(not(target_os = "none"))]
mod host {
    use super::*;
    use crate::cpu;
    use crate::fake::{Event, record};

    const LOADED_AT: u64 = 0x4020_0000;

    /// Where a part of the image was loaded.
    pub fn image_phys(va: KernelVa) -> PhysAddr {
        PhysAddr::new(va.raw().wrapping_sub(IMAGE_BASE.raw()).wrapping_add(LOADED_AT))
    }

    /// The stack below which CPU `index` has a guard page, for when its own stack overflowed.
    pub fn emergency_stack(index: usize) -> AddrRange<KernelVa> {
        let start = boot_stack().end() + (index as u64 + 1) * (0x1000 + cpu::EMERGENCY_STACK_SIZE);
        AddrRange::new(start, start + cpu::EMERGENCY_STACK_SIZE)
    }

    /// The first stack.
    pub fn boot_stack() -> AddrRange<KernelVa> {
        AddrRange::new(IMAGE_BASE + 0x10_0000, IMAGE_BASE + 0x11_0000)
    }

    /// All that the final tables must map of the image.
    pub fn sections() -> impl Iterator<Item = Section> {
        [
            (SectionKind::Text, 0, 0x8000),
            (SectionKind::Rodata, 0x8000, 0xc000),
            (SectionKind::Data, 0xc000, 0x10_0000),
        ]
        .into_iter()
        .map(|(kind, start, end)| Section {
            kind,
            virt: AddrRange::new(IMAGE_BASE + start, IMAGE_BASE + end),
            phys: image_phys(IMAGE_BASE + start),
        })
    }

    /// Maps `chunk` where the linear map will have it: nothing, on a host.
    pub fn map_early_linear(_: addr::Chunk) {}

    /// Where CPU_ON has to send a CPU, with the physical address of its [`SecondaryArgs`] as context.
    pub fn secondary_entry() -> PhysAddr {
        PhysAddr::new(LOADED_AT + 0x40)
    }

    /// Where to send a CPU without a context, to wait for [`release_parked`].
    pub fn parking_entry() -> PhysAddr {
        PhysAddr::new(LOADED_AT + 0x80)
    }

    /// Sends a CPU that waits in boot.s to [`secondary_entry`].
    pub fn release_parked(affinity: u64, args: PhysAddr) {
        record(Event::Release(affinity, args));
    }

    /// Maps the 2 MiB around `pa` as Device-nGnRE and returns where `pa` is.
    pub fn map_early_device(pa: PhysAddr) -> KernelVa {
        EARLY_DEVICES + pa.raw() % (2 << 20)
    }

    /// Maps the device tree at `pa` read-only; a host has none.
    pub fn map_early_dtb(pa: PhysAddr) -> Result<AddrRange<KernelVa>, EarlyDtbError> {
        Err(EarlyDtbError::NoAddress(pa))
    }
}

#[cfg(not(target_os = "none"))]
pub use host::*;
#[cfg(target_os = "none")]
pub use target::*;

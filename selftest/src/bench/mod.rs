//! Benchmarks: the cost of operations in ticks of the counter, one line for each measurement.
//!
//! Under QEMU's `-icount shift=0,sleep=off` with a counter of 1 GHz a tick is a guest instruction, and every
//! run prints the same. Names, sizes and attributes equal those of the Linux figures in `doc/peer-linux.tsv`.

mod alloc;
mod contention;
#[cfg(feature = "counters")]
mod events;
mod floor;
mod growth;
mod line;
mod machine;
mod measure;
mod neighbour;
mod streaming;

use ::alloc::format;
use ::alloc::string::String;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use addr::{AddrRange, PhysAddr};
use dma_api::{DmaError, DmaMask};
use kernel::board::Glob;
use kernel::devices;
use kernel::dma::Device;
use kernel::{kprintln, process};

/// The program that measures `mmap` and `munmap`; it executes the one that measures processes.
const PROGRAM: &str = "/bin/bench";

/// The size that the program maps in addition to [`alloc::SIZES`], and its rounds.
const LARGEST: (u64, usize) = (1 << 30, 8);

/// The DMA mask of the device, equal to that of the device in the Linux benchmark. The device transfers
/// nothing, so that its actual address width does not matter.
const MASK: DmaMask = DmaMask::bits(48);

/// The measurements of a name.
struct Bench {
    name: &'static str,
    run: fn(&Arc<Device>) -> Result<(), DmaError>,
}

/// All benchmarks. Those that fragment memory are last, so that the others run with the memory as after boot.
const BENCHES: &[Bench] = &[
    Bench { name: "floor", run: floor::run },
    Bench { name: "alloc", run: alloc::unfragmented },
    Bench { name: "map_single", run: streaming::single },
    Bench { name: "map_sg", run: streaming::scattered },
    Bench { name: "map_pinned", run: streaming::pinned },
    Bench { name: "contention", run: contention::run },
    Bench { name: "neighbour", run: neighbour::run },
    Bench { name: "growth_size", run: growth::size },
    Bench { name: "growth_live", run: growth::live },
    Bench { name: "growth_streams", run: growth::streams },
    Bench { name: "frag_alloc", run: alloc::fragmented },
    Bench { name: "growth_pieces", run: growth::pieces },
];

/// Runs the `chosen` benchmarks and prints the results. The program is read from `initramfs`.
///
/// # Safety
/// As for [`kernel::fs::mount`].
pub unsafe fn run(chosen: Glob<'_>, initramfs: Option<AddrRange<PhysAddr>>) {
    #[cfg(feature = "counters")]
    events::register();
    kprintln!("cntfrq={}", arch::timer::frequency());
    if chosen.matches("boot") {
        machine::report();
    }
    if let Some(device) = device() {
        for bench in BENCHES.iter().filter(|bench| chosen.matches(bench.name)) {
            if let Err(error) = (bench.run)(&device) {
                log::error!("bench {}: {error}", bench.name);
            }
        }
    }
    let mut arguments: Vec<String> = Vec::new();
    if chosen.matches("mmap") {
        let sizes = alloc::SIZES.iter().chain(&[LARGEST]);
        arguments.extend(sizes.map(|(size, rounds)| format!("{size}:{rounds}")));
    }
    if chosen.matches("process") {
        arguments.push("process".into());
    }
    if !arguments.is_empty() {
        let environment = process::environment(core::iter::empty());
        // SAFETY: passed on to the caller.
        unsafe { process::run_init(initramfs, PROGRAM, &arguments, &environment) };
    }
}

/// Returns the device for which buffers are allocated.
fn device() -> Option<Arc<Device>> {
    let Some(edu) = devices::dma_engines().next() else {
        log::error!("bench: no edu device");
        return None;
    };
    let device = edu.device().clone();
    match device.set_mask(MASK) {
        Ok(()) => Some(device),
        Err(error) => {
            log::error!("bench: {}: {error}", device.name());
            None
        }
    }
}

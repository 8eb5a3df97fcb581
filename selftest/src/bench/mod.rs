//! Benchmarks: what an operation costs in ticks of the counter, one line a measurement.
//!
//! Under QEMU's `-icount shift=0,sleep=off` with a counter of 1 GHz a tick is a guest instruction, and every
//! run prints the same. Names, sizes and attributes are those of the figures for Linux that
//! `doc/peer-linux.tsv` holds.

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

/// The program that measures what only a program can see.
const PROGRAM: &str = "/bin/bench";

/// What a program maps besides [`alloc::SIZES`]: bytes, and how often.
const LARGEST: (u64, usize) = (1 << 30, 8);

/// Bits of address of the device, as many as the peer gives its own. Nothing is transferred, so that what the
/// device really decodes does not matter.
const MASK: DmaMask = DmaMask::bits(48);

/// Measurements of one name.
struct Bench {
    name: &'static str,
    run: fn(&Arc<Device>) -> Result<(), DmaError>,
}

/// All of them. Memory is torn last, so that the others find it as it was at boot.
const BENCHES: &[Bench] = &[
    Bench { name: "floor", run: floor::run },
    Bench { name: "alloc", run: alloc::whole },
    Bench { name: "map_single", run: streaming::single },
    Bench { name: "map_sg", run: streaming::scattered },
    Bench { name: "contention", run: contention::run },
    Bench { name: "neighbour", run: neighbour::run },
    Bench { name: "growth_size", run: growth::size },
    Bench { name: "growth_live", run: growth::live },
    Bench { name: "growth_streams", run: growth::streams },
    Bench { name: "frag_alloc", run: alloc::fragmented },
    Bench { name: "growth_pieces", run: growth::pieces },
];

/// Runs what is `chosen` and prints the results. The program comes from `initramfs`.
pub fn run(chosen: Glob<'_>, initramfs: Option<AddrRange<PhysAddr>>) {
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
    if chosen.matches("mmap") {
        let sizes: Vec<String> =
            alloc::SIZES.iter().chain(&[LARGEST]).map(|(size, rounds)| format!("{size}:{rounds}")).collect();
        process::run_init(initramfs, PROGRAM, &sizes.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// The device that gets the buffers.
fn device() -> Option<Arc<Device>> {
    let Some(edu) = devices::dma_engines().next() else {
        log::error!("bench: there is no edu device to allocate for");
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

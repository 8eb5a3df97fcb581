//! What the machine is for, once it is up: the self-tests, the benchmarks, random work, or the first program.

use alloc::vec::Vec;
use kernel::board::{BootArgs, Glob, Platform};
use kernel::{console, devices, fs, power, process};
use selftest::{bench, cases, soak};

/// The first program, if the boot arguments name none: the demonstration.
const DEFAULT_INIT: &str = "/bin/mosaic";

/// Does what the boot arguments ask for and switches the machine off.
pub fn main(platform: &Platform, args: &BootArgs<'_>, devices: devices::BoundDevices) -> ! {
    #[cfg(feature = "checking")]
    selftest::debug::poison::start();
    // A benchmark measures the boot as well, and the check takes an edu 100 ms.
    devices.publish(args.bench.is_none());
    if let Some(chosen) = args.selftest {
        // Without files the tests of programs are skipped; what is wrong with them is a matter for `init=`.
        platform.initrd.map(fs::mount);
        run_selftests(chosen, args);
    } else if let Some(chosen) = args.bench {
        bench::run(chosen, platform.initrd);
    } else if let Some(wish) = args.soak {
        platform.initrd.map(fs::mount);
        soak::run(wish);
    } else {
        run_init(platform, args);
    }
    console::flush();
    power::off()
}

#[cfg(not(feature = "checking"))]
fn run_selftests(chosen: Glob<'_>, _: &BootArgs<'_>) {
    cases::run(chosen);
}

#[cfg(feature = "checking")]
fn run_selftests(chosen: Glob<'_>, args: &BootArgs<'_>) {
    let Some(classes) = args.inject else {
        cases::run(chosen);
        return;
    };
    let first = args.inject_first.unwrap_or(cases::fault_injection::FIRST);
    cases::run_injected(chosen, &cases::fault_injection::Plan { classes, first });
}

fn run_init(platform: &Platform, args: &BootArgs<'_>) {
    let arguments: Vec<&str> = args.init_args().collect();
    process::run_init(platform.initrd, args.init.unwrap_or(DEFAULT_INIT), &arguments);
}

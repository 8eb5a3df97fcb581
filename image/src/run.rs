//! The task of the machine after boot: self-tests, benchmarks, the soak test, or the init program.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kernel::board::{BootArgs, Glob, Platform};
use kernel::{console, devices, fs, iommu, power, process};
use selftest::{bench, cases, soak};

/// The init program unless `init=` names another: the demonstration.
const DEFAULT_INIT: &str = "/bin/mosaic";

/// Runs the task that the boot arguments select and powers off.
pub fn main(platform: &Platform, args: &BootArgs<'_>, devices: devices::BoundDevices) -> ! {
    #[cfg(feature = "checking")]
    selftest::debug::poison::start();
    // Without the IOMMU check for benchmarks, which also measure the boot: an edu takes 100 ms for it.
    devices.publish(args.bench.is_none());
    if let Some(selected) = args.selftest {
        mount(platform);
        run_selftests(selected, args);
    } else if let Some(selected) = args.bench {
        // SAFETY: as in `mount`.
        unsafe { bench::run(selected, platform.initrd) };
    } else if let Some(settings) = args.soak {
        mount(platform);
        soak::run(settings);
    } else {
        run_init(platform, args);
    }
    iommu::all().iter().for_each(|smmu| smmu.service());
    console::flush();
    power::off()
}

#[cfg(not(feature = "checking"))]
fn run_selftests(selected: Glob<'_>, _: &BootArgs<'_>) {
    cases::run(selected);
}

#[cfg(feature = "checking")]
fn run_selftests(selected: Glob<'_>, args: &BootArgs<'_>) {
    let Some(points) = args.inject else {
        cases::run(selected);
        return;
    };
    let first = args.inject_first.unwrap_or(cases::fault_injection::DEFAULT_FIRST);
    cases::run_injected(selected, &cases::fault_injection::InjectionPlan { points, first });
}

/// Mounts the initramfs. Without one the tests of programs are skipped; only `init=` reports its errors.
fn mount(platform: &Platform) {
    // SAFETY: `boot::start_kernel` has reserved the range, and the boot loader has written it.
    let _ = platform.initrd.map(|range| unsafe { fs::mount(range) });
}

fn run_init(platform: &Platform, args: &BootArgs<'_>) {
    let arguments: Vec<String> = args.init_args().map(|argument| argument.to_string()).collect();
    let environment = process::environment(args.environment());
    let path = args.init.unwrap_or(DEFAULT_INIT);
    // SAFETY: as in `mount`.
    unsafe { process::run_init(platform.initrd, path, &arguments, &environment) };
}

//! Cache maintenance: the kernel's memory management and DMA core run on a cache model with a device that
//! does not snoop the CPU caches.

mod cache_model;
mod misuse;
mod mutants;
mod smmu_device;
mod windows;
mod workload;

use addr::{AddrRange, PhysAddr};
use arch::boot::BootInfo;
use cache_model::{CacheModel, RAM, RAM_BYTES};
use kernel::memory::{self, Sizes};
use mutants::{MUTANTS, MaintenanceMutant};
use smmu_device::SmmuDevice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::rc::Rc;
use workload::RandomWorkload;

/// Initializes the kernel's memory management on a new model; at most once per process.
fn boot() -> Rc<CacheModel> {
    let model = CacheModel::install();
    memory::heap::init();
    let at = |offset| PhysAddr::new(RAM + offset);
    let ram = AddrRange::new(at(0), at(RAM_BYTES));
    let image = AddrRange::new(at(2 << 20), at(3 << 20));
    let boot = BootInfo { dtb: at(0), image, entry_el: 1 };
    let reserved = [kernel::board::Reservation { range: image, no_map: false }];
    let sizes = Sizes { lowmem: Some(RAM_BYTES / 2), vmalloc: Some(256 << 20) };
    // SAFETY: the RAM is the cache model's; this is the only call.
    unsafe { memory::init(&boot, &[ram], &reserved, sizes) }.unwrap();
    model.start(memory::init_cpu(0).unwrap().address());
    model
}

/// The number of workloads that the kernel must pass; a mutant must fail in at least one of them.
const WORKLOADS: u64 = if cfg!(miri) { 1 } else { 12 };
/// The steps of a workload.
const STEPS: u64 = if cfg!(miri) { 8 } else { 40 };
/// The environment variable that selects a mutant in a child process, which must fail.
const MUTANT_VARIABLE: &str = "CACHES_MUTANT";

/// A single test, since a process has one kernel.
#[test]
fn cpu_and_noncoherent_device_see_each_others_data() {
    let model = boot();
    if let Ok(name) = std::env::var(MUTANT_VARIABLE) {
        let mutant = MUTANTS.iter().find(|mutant| mutant.name == name).unwrap();
        model.mutation.set(Some(mutant.mutation));
    }
    for seed in 0..WORKLOADS {
        let workload = RandomWorkload::new(&model, seed);
        catch_unwind(AssertUnwindSafe(|| workload.run(STEPS))).unwrap_or_else(|_| panic!("seed {seed}"));
    }
    let behind_smmu = SmmuDevice::start(&model);
    for seed in 0..WORKLOADS {
        model.reseed(seed);
        behind_smmu.drop_attachment_while_device_writes(1 + seed % 3);
        behind_smmu.unmap_stream_while_device_writes(1 + seed % 3);
    }
    behind_smmu.frames_of_unconfirmed_unmap_stay_in_use();
    misuse::each_misuse_is_rejected_with_its_error();
    // The rest takes minutes under Miri, and accesses memory as the workloads do.
    if cfg!(miri) {
        return;
    }
    behind_smmu.unusable_addresses_are_never_allocated();
    behind_smmu.configuration_waits_with_interrupts_enabled();
    behind_smmu.service_failure_quarantines_each_device_behind_the_smmu();
    windows::buffers_are_inside_the_windows();
    windows::errors_name_the_limit();
    windows::device_addresses_are_contiguous_only_in_one_window();
}

#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn every_mutant_is_killed() {
    let survivors: Vec<_> =
        MUTANTS.iter().filter(|mutant| !is_killed(mutant)).map(|mutant| mutant.name).collect();
    assert!(survivors.is_empty(), "survived: {survivors:#?}");
}

/// Whether the test fails with the mutant, in a process of its own.
fn is_killed(mutant: &MaintenanceMutant) -> bool {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "cpu_and_noncoherent_device_see_each_others_data", "--nocapture"]);
    let output = test.env(MUTANT_VARIABLE, mutant.name).env("RUST_BACKTRACE", "0").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failure = stderr.lines().find(|line| {
        line.contains(" sees ")
            || line.contains("old data")
            || line.contains("cached")
            || line.contains("mismatched")
    });
    println!("{}: {}", mutant.name, failure.unwrap_or("survives"));
    failure.is_some() && !output.status.success()
}

#[test]
fn documented_mutants_match_the_list() {
    let text = include_str!("../../../doc/mutants.md");
    let (_, section) = text.split_once("\n## Mutants of the cache maintenance").unwrap();
    let section = section.split("\n#").next().unwrap();
    let listed: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" | killed |")).collect();
    let existing: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(listed, existing);
}

//! Each step of an allocation fails once, and leaves nothing: [`super::inject`] in little, with books that are compared at
//! once and to the last table.

use super::dma::{direct_device, memory, translated};
use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test};
use crate::debug::fault_injection::{self, Selection};
use crate::{check, pass, skip};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use dma_api::{Attrs, Direction};
use kernel::debug::FailPoint;
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Device};

pub const TESTS: &[Test] = &[Test {
    name: "dma.failed_allocation_releases_all_resources",
    run: failed_allocation_releases_all_resources,
}];

/// What an allocation takes one after the other.
const STEPS: [FailPoint; 5] =
    [FailPoint::Frames, FailPoint::Iova, FailPoint::Tables, FailPoint::Maps, FailPoint::Vmalloc];

/// Lets every try of every step fail, until an allocation gets through without it.
fn failed_allocation_releases_all_resources() -> Outcome {
    if fault_injection::is_busy() {
        skip!("it makes things fail itself");
    }
    let mut count = 0;
    for coherent in [true, false] {
        let devices = [translated(coherent)?, Some(direct_device(coherent))];
        for device in devices.into_iter().flatten() {
            for attrs in [Attrs::empty(), Attrs::NO_KERNEL_MAPPING | Attrs::ALLOC_SINGLE_PAGES] {
                count += fail_each_step(&device, attrs | Attrs::NO_WARN)?;
            }
        }
    }
    // In a domain's tree, and in a table of small mappings.
    count += fail_lending(0x2_3000)? + fail_lending(0x3000)?;
    pass!("{count} failures, nothing left behind")
}

/// The same for memory that is lent: it comes back, and nothing else stays.
fn fail_lending(len: u64) -> Result<u32, String> {
    let mut count = 0;
    for step in [FailPoint::Iova, FailPoint::Tables] {
        for nth in 1.. {
            let before = ResourceSnapshot::now();
            // A new domain each time, without any table but its first.
            let Some(device) = translated(true)? else { return Ok(0) };
            let pages = memory(Pages::scattered(len))?;
            fault_injection::arm(step, Selection::Nth(nth));
            let result = stream::map(&device, pages, Direction::Bidirectional);
            let failed = fault_injection::disarm().failed;
            if let Err(refused) = &result {
                let back: u64 = refused.memory.segments().iter().map(|segment| segment.len).sum();
                check!(back == len, "{step:?} {nth}: {back:#x} bytes came back");
            }
            check!(result.is_err() == failed, "{step:?} {nth}: {result:?}");
            drop((result, device));
            before.check(&format!("lending {len:#x}, {step:?} {nth}"))?;
            if !failed {
                break;
            }
            count += 1;
        }
    }
    Ok(count)
}

fn fail_each_step(device: &Arc<Device>, attrs: Attrs) -> Result<u32, String> {
    // The first buffer may leave an empty table behind for the next one.
    drop(dma::alloc(device, 0x2_3000, attrs));
    let mut count = 0;
    for step in STEPS {
        for nth in 1.. {
            let before = ResourceSnapshot::now();
            fault_injection::arm(step, Selection::Nth(nth));
            let result = dma::alloc(device, 0x2_3000, attrs);
            let failed = fault_injection::disarm().failed;
            if failed {
                count += 1;
                // A search for frames goes on with smaller chunks, so it may succeed all the same.
                check!(
                    result.is_err() || step == FailPoint::Frames,
                    "{step:?} {nth} under {attrs}: no error"
                );
            }
            drop(result);
            before.check(&format!("{step:?} {nth} under {attrs}"))?;
            if !failed {
                break;
            }
        }
    }
    Ok(count)
}

//! Injected failures in each step of an allocation: a short form of [`super::fault_injection`] that compares
//! [`ResourceSnapshot`]s immediately and exactly, including page tables.

use super::dma::{direct_device, pages_or_error, translated_device};
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

/// The fail points of an allocation, in order.
const STEPS: [FailPoint; 5] =
    [FailPoint::Frames, FailPoint::Iova, FailPoint::Tables, FailPoint::Maps, FailPoint::Vmalloc];

/// Fails each operation of each step in turn, until an allocation has no further operation.
fn failed_allocation_releases_all_resources() -> Outcome {
    if fault_injection::is_busy() {
        skip!("fault injection is already armed");
    }
    let mut count = 0;
    for coherent in [true, false] {
        let devices = [translated_device(coherent)?, Some(direct_device(coherent))];
        for device in devices.into_iter().flatten() {
            for attrs in [Attrs::empty(), Attrs::NO_KERNEL_MAPPING | Attrs::ALLOC_SINGLE_PAGES] {
                count += fail_each_step(&device, attrs | Attrs::NO_WARN)?;
            }
        }
    }
    // The first length takes its IOVA from the domain's tree, the second from a table of small mappings.
    count += fail_streaming_map(0x2_3000)? + fail_streaming_map(0x3000)?;
    pass!("{count} failures, no leak")
}

/// Fails each step of a streaming mapping: the caller gets its memory back, and no resource leaks.
fn fail_streaming_map(len: u64) -> Result<u32, String> {
    let mut count = 0;
    for step in [FailPoint::Iova, FailPoint::Tables] {
        for nth in 1.. {
            let before = ResourceSnapshot::now();
            // A new domain each time, with a root table only.
            let Some(device) = translated_device(true)? else { return Ok(0) };
            let pages = pages_or_error(Pages::scattered(len))?;
            fault_injection::arm(step, Selection::Nth(nth));
            let result = stream::map(&device, pages, Direction::Bidirectional);
            let failed = fault_injection::disarm().failed;
            if let Err(refused) = &result {
                let back: u64 = refused.memory.segments().iter().map(|segment| segment.len).sum();
                check!(back == len, "{step:?} {nth}: {back:#x} of {len:#x} bytes returned");
            }
            check!(result.is_err() == failed, "{step:?} {nth}: {result:?}");
            drop((result, device));
            before.check(&format!("streaming mapping of {len:#x} bytes, {step:?} {nth}"))?;
            if !failed {
                break;
            }
            count += 1;
        }
    }
    Ok(count)
}

fn fail_each_step(device: &Arc<Device>, attrs: Attrs) -> Result<u32, String> {
    // The first buffer may leave an empty table, which later buffers reuse.
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
                // The frame allocator retries with smaller chunks, so the allocation may still succeed.
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

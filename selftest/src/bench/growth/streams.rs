//! Cost by the number of attached streams, all in one domain or each in its own: attaching and detaching one
//! more, and allocating and freeing a buffer. No device is behind these streams, which the SMMU cannot
//! detect.

use super::ATTRS;
use crate::bench::MASK;
use crate::bench::line::BenchLine;
use crate::bench::measure::Timings;
use ::alloc::string::String;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use addr::StreamId;
use core::fmt::Display;
use dma_api::DmaError;
use kernel::dma::{self, Device};
use kernel::iommu::Smmu;

const COUNTS: [u32; 7] = [1, 4, 16, 64, 256, 1024, 4096];
/// The first stream, on PCI bus 16; buses from there on are unused.
const FIRST: u32 = 0x1000;
const ROUNDS: usize = 32;
const BUFFER: u64 = 64 << 10;

/// The assignment of domains to streams.
#[derive(Clone, Copy)]
enum Domains {
    Shared,
    Own,
}

/// Measures with a shared domain and with separate ones; returns immediately without an SMMU.
pub fn streams(device: &Arc<Device>) -> Result<(), DmaError> {
    let Some(smmu) = device.smmu() else { return Ok(()) };
    [Domains::Shared, Domains::Own].into_iter().try_for_each(|domains| domains.measure(smmu))
}

impl Domains {
    fn measure(self, smmu: &'static Smmu) -> Result<(), DmaError> {
        let mut attached: Vec<Arc<Device>> = Vec::new();
        for count in COUNTS {
            while attached.len() < count as usize {
                let next = self.attach(smmu, &attached, attached.len() as u32)?;
                attached.push(next);
            }
            let mut timings = Timings::measure(ROUNDS, || self.attach(smmu, &attached, count), drop)?;
            self.print(&mut timings, 0, self.name(), count);
            let first = &attached[0];
            let mut timings = Timings::measure(ROUNDS, || dma::alloc(first, BUFFER, ATTRS), drop)?;
            self.print(&mut timings, BUFFER, self.name(), count);
        }
        Ok(())
    }

    /// Attaches stream number `number`.
    fn attach(
        self,
        smmu: &'static Smmu,
        attached: &[Arc<Device>],
        number: u32,
    ) -> Result<Arc<Device>, DmaError> {
        let (name, stream) = (String::new(), StreamId::new(FIRST + number));
        let device = match (self, attached.first()) {
            (Self::Shared, Some(first)) => Device::in_group(name, smmu, stream, true, first.domain().clone()),
            _ => Device::translated(name, smmu, stream, true, &[]),
        }?;
        device.set_mask(MASK)?;
        Ok(device)
    }

    fn print(self, timings: &mut Timings, size: u64, attrs: impl Display, count: u32) {
        let parameter = Some(("streams", count.into()));
        BenchLine { name: "growth_streams", size, attrs, chunks: 1, tables: 0, metadata: 0, parameter }
            .print(timings);
    }

    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared_domain",
            Self::Own => "own_domain",
        }
    }
}

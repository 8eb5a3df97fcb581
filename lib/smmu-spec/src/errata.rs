//! Errata of SMMU implementations that the driver works around, by SMMU_IIDR (IHI 0070, 6.3.7).
//!
//! `doc/boards.md` lists them with the errata that need no workaround here.

use crate::field::extract;

/// The change of the driver's behaviour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workaround {
    /// Commands of two kinds never follow each other without a CMD_SYNC between them.
    SyncBetweenKinds,
}

/// An erratum of one product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Erratum {
    /// The product's name.
    pub product: &'static str,
    /// The vendor's number.
    pub number: u32,
    /// SMMU_IIDR.Implementer: a JEP106 code.
    implementer: u16,
    /// SMMU_IIDR.ProductID.
    product_id: u16,
    /// The workaround.
    pub workaround: Workaround,
}

const ARM: u16 = 0x43b;

/// Sources: Arm's errata notices, as applied by Linux (`Documentation/arch/arm64/silicon-errata.rst` and
/// `arm_smmu_device_iidr_probe`).
const ERRATA: [Erratum; 1] = [Erratum {
    product: "MMU-700",
    number: 2_812_531,
    implementer: ARM,
    // All revisions.
    product_id: 0x487,
    workaround: Workaround::SyncBetweenKinds,
}];

impl Erratum {
    /// The erratum of the implementation that SMMU_IIDR identifies, if it has one.
    pub fn of(iidr: u32) -> Option<&'static Self> {
        let implementer = extract(11, 0, iidr.into()) as u16;
        let product_id = extract(31, 20, iidr.into()) as u16;
        ERRATA.iter().find(|erratum| (erratum.implementer, erratum.product_id) == (implementer, product_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mmu_700_needs_a_sync_between_kinds_of_commands() {
        // r0p0, r1p0 and r1p1.
        for iidr in [0x4870_043b, 0x4871_043b, 0x4871_143b] {
            let erratum = Erratum::of(iidr).unwrap();
            assert_eq!((erratum.number, erratum.workaround), (2_812_531, Workaround::SyncBetweenKinds));
        }
    }

    #[test]
    fn other_implementations_have_no_erratum() {
        // None, MMU-600, another vendor's product 0x487.
        for iidr in [0, 0x4830_043b, 0x4870_034c] {
            assert_eq!(Erratum::of(iidr), None, "{iidr:#x}");
        }
    }
}

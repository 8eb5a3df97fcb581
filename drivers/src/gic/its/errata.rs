//! Implementations of the ITS that deviate from the architecture, by GITS_IIDR. Deviations of a machine that
//! uses a common implementation, such as the GIC-600 of a Rockchip RK3588, are a part of its description
//! ([`ItsIntegration`](super::ItsIntegration)).

/// The consequence of an erratum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ItsWorkaround {
    /// None is needed for physical LPIs.
    Unaffected,
    /// The ITS is not used.
    Reject,
    /// GITS_TYPER.ITT_entry_size is wrong: entries have this many bytes.
    IttEntryBytes(u64),
}

/// A known erratum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItsErratum {
    /// The implementation and the number of the erratum.
    pub name: &'static str,
    iidr: u32,
    mask: u32,
    pub(super) workaround: ItsWorkaround,
}

const ERRATA: [ItsErratum; 4] = [
    ItsErratum {
        name: "Cavium ThunderX, errata 22375, 23144 and 24313",
        iidr: 0xa100_034c,
        mask: 0xffff_0fff,
        workaround: ItsWorkaround::Reject,
    },
    ItsErratum {
        name: "Qualcomm QDF2400, erratum 65",
        iidr: 0x0000_1070,
        mask: u32::MAX,
        workaround: ItsWorkaround::IttEntryBytes(16),
    },
    ItsErratum {
        name: "HiSilicon Hip07, erratum 161600802 (virtual LPIs)",
        iidr: 0x0000_0004,
        mask: u32::MAX,
        workaround: ItsWorkaround::Unaffected,
    },
    ItsErratum {
        name: "HiSilicon Hip09, erratum 162100801 (virtual SGIs)",
        iidr: 0x0005_1736,
        mask: u32::MAX,
        workaround: ItsWorkaround::Unaffected,
    },
];

impl ItsErratum {
    /// The erratum of the implementation with this GITS_IIDR.
    pub(super) fn of(iidr: u32) -> Option<&'static Self> {
        ERRATA.iter().find(|erratum| iidr & erratum.mask == erratum.iidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errata_are_found_by_implementation() {
        let workaround = |iidr| ItsErratum::of(iidr).map(|erratum| erratum.workaround);
        assert_eq!(workaround(0xa100_134c), Some(ItsWorkaround::Reject), "any variant");
        assert_eq!(workaround(0x1070), Some(ItsWorkaround::IttEntryBytes(16)));
        assert_eq!([0x43b, 0x0201_743b].map(workaround), [None, None], "QEMU's, a GIC-600");
    }
}

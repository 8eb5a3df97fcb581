//! CPU errata with a workaround in the kernel, by MIDR_EL1. `doc/boards.md` lists them with the others.

/// A range of revisions of a CPU.
struct CpuRevisions {
    /// MIDR_EL1.Implementer and PartNum.
    model: (u8, u16),
    /// The first and the last variant and revision.
    revisions: [(u8, u8); 2],
}

const ARM: u8 = 0x41;
const QUALCOMM: u8 = 0x51;

/// CPUs on which accesses through an old translation may be incomplete after a broadcast TLBI and a DSB. One
/// more TLBI, of any address, and a DSB complete them.
///
/// Source: Arm's and Qualcomm's errata notices, as listed by Linux
/// (`Documentation/arch/arm64/silicon-errata.rst`; `arm64_repeat_tlbi_list` and its one extra TLBI).
const REPEATS_TLBI: [CpuRevisions; 4] = [
    // Cortex-A55: 2441007
    CpuRevisions { model: (ARM, 0xd05), revisions: [(0, 0), (0xf, 0xf)] },
    // Cortex-A510 up to r1p1: 2441009
    CpuRevisions { model: (ARM, 0xd46), revisions: [(0, 0), (1, 1)] },
    // Cortex-A76 up to r3p0: 1286807
    CpuRevisions { model: (ARM, 0xd0b), revisions: [(0, 0), (3, 0)] },
    // Kryo 4xx Gold, rcpe to rfpe, a Cortex-A76: 1286807
    CpuRevisions { model: (QUALCOMM, 0x804), revisions: [(0xc, 0xe), (0xf, 0xe)] },
];

/// Whether each broadcast TLBI and DSB of the CPU with this MIDR_EL1 must be followed by another pair.
pub(crate) fn repeats_tlbi(midr: u64) -> bool {
    let model = ((midr >> 24) as u8, (midr >> 4 & 0xfff) as u16);
    let revision = ((midr >> 20 & 0xf) as u8, (midr & 0xf) as u8);
    let affected = |cpu: &CpuRevisions| {
        let [first, last] = cpu.revisions;
        cpu.model == model && (first..=last).contains(&revision)
    };
    REPEATS_TLBI.iter().any(affected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tlbi_is_repeated_on_affected_revisions_only() {
        let affected = [
            0x412f_d050, // Cortex-A55 r2p0
            0x410f_d461, // Cortex-A510 r0p1
            0x411f_d461, // Cortex-A510 r1p1
            0x413f_d0b0, // Cortex-A76 r3p0
            0x51df_804e, // Kryo 4xx Gold rdpe
        ];
        let unaffected = [
            0x0000_0000,
            0x410f_d034, // Cortex-A53 r0p4
            0x410f_d083, // Cortex-A72 r0p3
            0x411f_d462, // Cortex-A510 r1p2
            0x414f_d0b1, // Cortex-A76 r4p1
            0x413f_d0c1, // Neoverse N1 r3p1
            0x420f_d0b0, // another implementer's part 0xd0b
            0x51bf_804e, // Kryo 4xx Gold before rcpe
            0x000f_0510, // QEMU's `max`
        ];
        assert!(affected.into_iter().all(repeats_tlbi));
        for midr in unaffected {
            assert!(!repeats_tlbi(midr), "{midr:#x}");
        }
    }
}

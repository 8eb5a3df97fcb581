//! The Memory Copy and Memory Set exception (FEAT_MOPS), resolved by a restart of the instruction sequence.
//!
//! SETP, SETM, SETE (or CPYP, CPYM, CPYE) keep their progress in registers and PSTATE, in the format of
//! option A or of option B; a CPU implements one of them. If a thread migrates within a sequence to a CPU of
//! the other option, SETM or SETE takes this exception there. The handler converts the registers to the
//! format of the prologue and returns to it (DDI 0487, rules CNTMJ and MWFQH).
//!
//! | | option A | option B |
//! |---|---|---|
//! | set, forward copy | end addresses; minus the remaining bytes | next addresses; remaining bytes |
//! | backward copy | start addresses; remaining bytes | end addresses; remaining bytes; PSTATE.N is 1 |

use super::{Syndrome, TrapFrame};

/// The decoded syndrome of a Memory Copy and Memory Set exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryOperation {
    /// SET*, not CPY*.
    set: bool,
    /// The last instruction of the sequence, not the second.
    epilogue: bool,
    /// The registers have the format of option A: OptionA, inverted by WrongOption.
    option_a: bool,
    /// Register numbers.
    destination: usize,
    source: usize,
    size: usize,
}

/// The operands of a sequence. `source` is not an address for SET*.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Operands {
    destination: u64,
    source: u64,
    size: u64,
}

impl MemoryOperation {
    /// Decodes the syndrome (D24.2.44, ISS encoding for an exception from the Memory Copy and Memory Set
    /// instructions).
    pub(super) fn decode(iss: u32) -> Self {
        let bit = |lsb: u32| iss >> lsb & 1 != 0;
        let register = |lsb: u32| (iss >> lsb & 0x1f) as usize;
        let (wrong_option, option_a) = (bit(17), bit(16));
        Self {
            set: bit(24),
            epilogue: bit(18),
            option_a: option_a != wrong_option,
            destination: register(10),
            source: register(5),
            size: register(0),
        }
    }

    /// The operands for the prologue of the remaining operation. `negative` is PSTATE.N.
    fn restarted(self, now: Operands, negative: bool) -> Operands {
        let Operands { destination, source, size } = now;
        let moved = |by: u64, size: u64| Operands {
            destination: destination.wrapping_add(by),
            source: source.wrapping_add(by),
            size,
        };
        let backward = !self.set && if self.option_a { size >> 63 == 0 } else { negative };
        match (self.option_a, backward) {
            // The size is negative.
            (true, false) => moved(size, size.wrapping_neg()),
            (true, true) | (false, false) => now,
            (false, true) => moved(size.wrapping_neg(), size),
        }
    }

    /// The address of the prologue, one or two instructions before `pc`.
    fn prologue(self, pc: u64) -> u64 {
        pc.wrapping_sub(if self.epilogue { 8 } else { 4 })
    }
}

impl TrapFrame {
    /// Restarts the memory copy or memory set that caused the exception at its prologue. `false` if the
    /// exception is another one, or was restarted already.
    pub fn restart(&mut self) -> bool {
        let Syndrome::MemoryOperation(operation) = self.syndrome() else { return false };
        // A second restart would resume one instruction too early.
        self.esr = 0;
        const N: u64 = 1 << 31;
        // Register 31 is XZR, possible as the source of SET*.
        let read = |register: usize| self.x.get(register).copied().unwrap_or(0);
        let now = Operands {
            destination: read(operation.destination),
            source: read(operation.source),
            size: read(operation.size),
        };
        let restarted = operation.restarted(now, self.spsr & N != 0);
        let mut write = |register: usize, value| {
            if let Some(x) = self.x.get_mut(register) {
                *x = value;
            }
        };
        write(operation.destination, restarted.destination);
        // The source of SET* is a data value.
        if !operation.set {
            write(operation.source, restarted.source);
        }
        write(operation.size, restarted.size);
        self.elr = operation.prologue(self.elr);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exception::UserFrame;
    use addr::UserVa;

    const SET: u32 = 1 << 24;
    const COPY: u32 = 0;
    const EPILOGUE: u32 = 1 << 18;
    const WRONG: u32 = 1 << 17;
    const A: u32 = 1 << 16;
    const B: u32 = 0;

    /// x3 is the destination, x5 the source, x7 the size.
    const REGISTERS: u32 = 3 << 10 | 5 << 5 | 7;
    const ESR: u64 = 0x27 << 26 | 1 << 25;

    fn minus(size: u64) -> u64 {
        size.wrapping_neg()
    }

    /// A frame with ELR 0x1008, these values of destination, source and size, and PSTATE.N.
    fn frame([destination, source, size]: [u64; 3], negative: bool) -> TrapFrame {
        let UserFrame(mut frame) = UserFrame::program(UserVa::new(0x1008), UserVa::new(0));
        (frame.x[3], frame.x[5], frame.x[7]) = (destination, source, size);
        frame.spsr |= u64::from(negative) << 31;
        frame
    }

    #[test]
    fn restart_restores_the_prologue_operands() {
        // 0x300 bytes remain, from 0x4100 to 0x8100.
        let remaining = [0x8100, 0x4100, 0x300];
        let forward_a = [0x8400, 0x4400, minus(0x300)];
        let backward_b = [0x8400, 0x4400, 0x300];
        let cases = [
            ("copy, A, forward", COPY | A, forward_a, false, remaining),
            ("copy, A, backward", COPY | A, remaining, false, remaining),
            ("copy, B, forward", COPY | B, remaining, false, remaining),
            ("copy, B, backward", COPY | B, backward_b, true, remaining),
            ("copy, B on a CPU of option A, forward", COPY | A | WRONG, remaining, false, remaining),
            ("copy, B on a CPU of option A, backward", COPY | A | WRONG, backward_b, true, remaining),
            ("copy, A on a CPU of option B, forward", COPY | B | WRONG, forward_a, false, remaining),
            ("copy, A on a CPU of option B, backward", COPY | B | WRONG, remaining, false, remaining),
            ("copy, A, N is ignored", COPY | A, forward_a, true, remaining),
            ("set, A", SET | A, [0x8400, 0xab, minus(0x300)], false, [0x8100, 0xab, 0x300]),
            ("set, B", SET | B, [0x8100, 0xab, 0x300], false, [0x8100, 0xab, 0x300]),
            (
                "set, B on a CPU of option A",
                SET | A | WRONG,
                [0x8100, 0xab, 0x300],
                false,
                [0x8100, 0xab, 0x300],
            ),
            (
                "set, A on a CPU of option B",
                SET | WRONG,
                [0x8400, 0xab, minus(0x300)],
                false,
                [0x8100, 0xab, 0x300],
            ),
            ("set, A, no bytes remain", SET | A, [0x8400, 0xab, 0], false, [0x8400, 0xab, 0]),
            ("set, B, N is ignored", SET | B, [0x8100, 0xab, 0x300], true, [0x8100, 0xab, 0x300]),
        ];
        for (name, syndrome, now, negative, expected) in cases {
            for (epilogue, pc) in [(0, 0x1004), (EPILOGUE, 0x1000)] {
                let mut frame = frame(now, negative);
                frame.esr = ESR | u64::from(syndrome | epilogue | REGISTERS);
                assert!(frame.restart(), "{name}: {:?}", frame.syndrome());
                assert!(!frame.restart(), "{name}: restarted twice");
                assert_eq!([frame.x[3], frame.x[5], frame.x[7]], expected, "{name}");
                assert_eq!(frame.elr, pc, "{name}");
                assert_eq!(frame.x.iter().filter(|x| **x != 0).count(), 3 - usize::from(expected[2] == 0));
            }
        }
    }

    #[test]
    fn restart_accepts_xzr_as_source_of_set() {
        let mut frame = frame([0x8400, 0, minus(0x300)], false);
        frame.esr = ESR | u64::from(SET | A | 3 << 10 | 31 << 5 | 7);
        assert!(frame.restart());
        assert_eq!([frame.x[3], frame.x[5], frame.x[7]], [0x8100, 0, 0x300]);
    }
}

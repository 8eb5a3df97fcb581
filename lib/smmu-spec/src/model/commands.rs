//! Command consumption (IHI 0070, 4 and 7.1).

use super::registers::{gerror, offset};
use super::{PhysicalMemory, RegisterFile, SmmuModel};
use crate::command::{Command, Extent, Scope};
use crate::cursor::Cursor;
use crate::field::{extract, field, is_set};

/// CMDQ_CONS.ERR.
mod cerror {
    pub const ILLEGAL: u64 = 1;
    pub const ABORT: u64 = 2;
}

impl<R: RegisterFile, M: PhysicalMemory> SmmuModel<R, M> {
    /// Consumes one command unless the queue is empty or stopped by an error.
    pub(super) fn consume(&mut self) {
        let queue = self.queue(offset::CMDQ_BASE, Command::LOG2_BYTES.into());
        let produced = queue.start.read(self.registers.get(offset::CMDQ_PROD));
        let consumed = queue.start.read(self.registers.get(offset::CMDQ_CONS));
        if produced == consumed || self.active_errors() & gerror::CMDQ != 0 {
            return;
        }
        assert!(produced.distance_from(consumed) <= produced.entries(), "CMDQ_PROD is past a full queue");
        let at = queue.base + 16 * consumed.index() as u64;
        let (Some(word0), Some(word1)) = (self.memory.read(at), self.memory.read(at + 8)) else {
            return self.stop(consumed, cerror::ABORT);
        };
        match Command::decode([word0, word1]).filter(|command| self.legal(*command, word0, word1)) {
            None => self.stop(consumed, cerror::ILLEGAL),
            Some(command) => {
                self.check_kinds(command, word0 as u8);
                self.execute(command);
                self.opcodes.push(word0 as u8);
                // ERR keeps its value, as the manual permits: software must mask it before comparing indices.
                let error = self.registers.get(offset::CMDQ_CONS) & 0x7f00_0000;
                self.registers.set(offset::CMDQ_CONS, consumed.advanced(1).raw() | error);
            }
        }
    }

    fn stop(&mut self, at: Cursor, error: u64) {
        self.registers.set(offset::CMDQ_CONS, at.raw() | field(30, 24, error) as u32);
        self.raise(gerror::CMDQ);
    }

    /// Panics if a command of another kind follows without a CMD_SYNC in an MMU-700 (erratum 2812531).
    fn check_kinds(&mut self, command: Command, opcode: u8) {
        let last = self.unsynchronized.replace(opcode).filter(|_| self.ids.is_mmu_700());
        if command == Command::Sync {
            self.unsynchronized = None;
        } else {
            assert!(last.is_none_or(|last| last == opcode), "{command:?} after {last:x?} without CMD_SYNC");
        }
    }

    /// Invalidations take effect only at the next CMD_SYNC, and do not affect entries cached in between.
    fn execute(&mut self, command: Command) {
        if command == Command::Sync {
            self.syncs += 1;
            self.config.complete();
            self.tlb.complete();
        }
        self.config.invalidate(command, self.split());
        self.tlb.invalidate(command);
    }

    fn legal(&self, command: Command, word0: u64, word1: u64) -> bool {
        let ids = &self.ids;
        let addressed = |stage: bool, scope: Scope| stage && self.legal_scope(scope, word0, word1);
        match command {
            Command::CfgiCd { .. } | Command::CfgiCdAll { .. } => ids.stage1(),
            Command::TlbiNhAll { .. } | Command::TlbiNhAsid { .. } => ids.stage1(),
            Command::TlbiNhVa { scope, .. } | Command::TlbiNhVaa { scope, .. } => {
                addressed(ids.stage1(), scope)
            }
            Command::TlbiS12Vmall { .. } => ids.stage2(),
            Command::TlbiS2Ipa { scope, .. } => addressed(ids.stage2(), scope),
            // SSec needs the secure queue; CS = 0b11 is reserved.
            Command::CfgiSte { .. } | Command::CfgiSteRange { .. } | Command::CfgiAll => !is_set(10, word0),
            Command::Sync => extract(13, 12, word0) != 0b11,
            Command::TlbiNsnhAll => true,
        }
    }

    /// Without RIL the range fields are reserved; with RIL, a single granule without a level hint is
    /// reserved.
    fn legal_scope(&self, scope: Scope, word0: u64, word1: u64) -> bool {
        let range_fields = extract(16, 12, word0) | extract(25, 20, word0) | extract(11, 8, word1);
        match scope.extent {
            Extent::Entry => range_fields == 0,
            Extent::Pages { num: 0, scale: 0, ttl: 0 } => false,
            Extent::Pages { .. } => self.ids.ranges() && extract(11, 10, word1) == 0b01,
        }
    }
}

//! Mutants of the driver: each breaks one rule, and the judge must detect it.
//!
//! The driver's code is unchanged. Its effects are altered on the way to the SMMU: commands when the SMMU
//! reads them from the queue, barriers and cache maintenance when they take effect, CONS when the driver
//! reads it.

use super::super::test_machine::TestMachine;
use super::super::test_machine::bus::MutateCommands;
use super::executor::{DriverPhase, SharedState};
use addr::{Asid, StreamId, Vmid};
use arch::fake::Instruction;
use smmu_spec::{Command, Extent, Scope};
use std::rc::Rc;

/// Kind of a mutation.
#[derive(Clone, Copy)]
pub enum DriverFault {
    /// Replaces commands; `None` removes the command.
    Command(fn(Command) -> Option<Command>),
    /// Moves CMD_SYNC before the command that it is to complete.
    SyncFirst,
    /// Omits barriers or maintenance.
    Maintenance(fn(&TestMachine, &Instruction) -> bool),
    /// Lets the driver stop waiting after the first progress.
    WaitsForAnything,
}

/// A mutant.
pub struct DriverMutant {
    pub name: &'static str,
    /// The phases in which it is active; all, if empty.
    pub phases: &'static [DriverPhase],
    pub fault: DriverFault,
}

const fn mutant(name: &'static str, phases: &'static [DriverPhase], fault: DriverFault) -> DriverMutant {
    DriverMutant { name, phases, fault }
}

use DriverPhase::*;

/// All mutants; `doc/mutants.md` has the same list.
pub const MUTANTS: &[DriverMutant] = &[
    mutant("no CMD_SYNC after unmapping", &[Free, Unmap], DriverFault::Command(no_sync)),
    mutant("no CMD_SYNC when a block is split or a table emptied", &[Unmap], DriverFault::Command(no_sync)),
    mutant("no CMD_SYNC at attach", &[Attach], DriverFault::Command(no_sync)),
    mutant("no CMD_SYNC at detach", &[Detach], DriverFault::Command(no_sync)),
    mutant("no CMD_SYNC when a domain is dropped", &[Destroy], DriverFault::Command(no_sync)),
    mutant("no CMD_SYNC at initialization", &[Start], DriverFault::Command(no_sync)),
    mutant("CMD_SYNC before the TLBI", &[Free], DriverFault::SyncFirst),
    mutant("CMD_SYNC before CFGI_STE", &[Attach, Detach], DriverFault::SyncFirst),
    mutant("wait ends at the first progress of CONS", &[Free, Unmap, Detach], DriverFault::WaitsForAnything),
    mutant("no TLBI after unmapping", &[Free], DriverFault::Command(no_tlbi)),
    mutant("no TLBI when a block is split or a table emptied", &[Unmap], DriverFault::Command(no_tlbi)),
    mutant("no TLBI when a map fails", &[Map], DriverFault::Command(no_tlbi)),
    mutant("no TLBI when a domain is dropped", &[Destroy], DriverFault::Command(no_tlbi)),
    mutant("no TLBI at initialization", &[Start], DriverFault::Command(no_tlbi)),
    mutant("TLBI with a wrong ASID", &[], DriverFault::Command(other_asid)),
    mutant("TLBI with a wrong VMID", &[], DriverFault::Command(other_vmid)),
    mutant("TLBI one page too short", &[], DriverFault::Command(short)),
    mutant("TLBI one page too high", &[], DriverFault::Command(late)),
    mutant("TLBI of one page instead of a range", &[], DriverFault::Command(one_page)),
    mutant("TLBI of pages only (TTL = 3)", &[], DriverFault::Command(only_pages)),
    mutant("leaf-only TLBI after a table was unlinked", &[], DriverFault::Command(leaf)),
    mutant("no CFGI_STE at attach", &[Attach], DriverFault::Command(no_cfgi)),
    mutant("no CFGI_STE at detach", &[Detach], DriverFault::Command(no_cfgi)),
    mutant("CFGI_STE of a wrong stream", &[], DriverFault::Command(other_stream)),
    mutant("CFGI_STE of the leaf only, without the first level", &[], DriverFault::Command(keep_first_level)),
    mutant("CFGI_CD instead of CFGI_STE", &[], DriverFault::Command(only_context)),
    mutant("no CFGI_ALL at initialization", &[Start], DriverFault::Command(no_cfgi)),
    mutant("new entries of tables not cleaned", &[Map], DriverFault::Maintenance(clean)),
    mutant("cleared entries of tables not cleaned", &[Unmap], DriverFault::Maintenance(clean)),
    mutant("stream table entries not cleaned at attach", &[Attach], DriverFault::Maintenance(clean)),
    mutant("stream table entries not cleaned at detach", &[Detach], DriverFault::Maintenance(clean)),
    mutant("context descriptors and root tables not cleaned", &[Create], DriverFault::Maintenance(clean)),
    mutant("commands not cleaned", &[], DriverFault::Maintenance(clean_commands)),
    mutant("stream table not cleaned at initialization", &[Start], DriverFault::Maintenance(clean)),
    mutant("event records not invalidated in the cache", &[Idle], DriverFault::Maintenance(clean_invalidate)),
    mutant(
        "no DSB between cleaning and the doorbell",
        &[Free, Attach, Detach],
        DriverFault::Maintenance(dsb),
    ),
    mutant("no DSB after cleaning in map", &[Map], DriverFault::Maintenance(dsb)),
    mutant("no barrier before the doorbell", &[Free, Attach, Detach], DriverFault::Maintenance(dmb)),
    mutant("no barrier after map", &[Map], DriverFault::Maintenance(dmb)),
    mutant("no barrier after a block is split", &[Unmap], DriverFault::Maintenance(dmb)),
    mutant("new pinned table not cleaned", &[Pin], DriverFault::Maintenance(clean)),
    mutant("new entries of a pinned table not cleaned", &[MapPinned], DriverFault::Maintenance(clean)),
    mutant("cleared entries of a pinned table not cleaned", &[UnmapPinned], DriverFault::Maintenance(clean)),
    mutant("no DSB after cleaning in a pinned map", &[MapPinned], DriverFault::Maintenance(dsb)),
    mutant("no barrier after a pinned map", &[MapPinned], DriverFault::Maintenance(dmb)),
];

impl DriverMutant {
    /// Activates the mutant on `machine`.
    pub fn install(&'static self, machine: &TestMachine, shared: &Rc<SharedState>) {
        let inside = shared.clone();
        let active = move || self.phases.is_empty() || self.phases.contains(&inside.phase.get());
        match self.fault {
            DriverFault::Maintenance(ignored) => {
                *machine.ignored.borrow_mut() =
                    Some(Box::new(move |machine, event| active() && ignored(machine, event)));
            }
            fault => *machine.mutation.borrow_mut() = Some(Box::new(Active { fault, active })),
        }
    }
}

struct Active<F> {
    fault: DriverFault,
    active: F,
}

impl<F: Fn() -> bool> MutateCommands for Active<F> {
    fn command(&mut self, before: Option<Command>, command: Command, after: Option<Command>) -> Command {
        match self.fault {
            DriverFault::Command(altered) if (self.active)() => altered(command).unwrap_or(NOTHING),
            DriverFault::SyncFirst if (self.active)() => match (before, command, after) {
                (Some(before), Command::Sync, _) if before != Command::Sync => before,
                (_, command, Some(Command::Sync)) if command != Command::Sync => Command::Sync,
                _ => command,
            },
            _ => command,
        }
    }

    fn reports_all_consumed(&self) -> bool {
        matches!(self.fault, DriverFault::WaitsForAnything) && (self.active)()
    }
}

/// A command that is always legal and has no effect.
const NOTHING: Command = Command::CfgiSte { stream: StreamId::new(0xdead), leaf: true };

fn no_sync(command: Command) -> Option<Command> {
    (command != Command::Sync).then_some(command)
}

fn is_cfgi(command: Command) -> bool {
    use Command::*;
    matches!(command, CfgiSte { .. } | CfgiSteRange { .. } | CfgiAll | CfgiCd { .. } | CfgiCdAll { .. })
}

fn no_tlbi(command: Command) -> Option<Command> {
    (is_cfgi(command) || command == Command::Sync).then_some(command)
}

fn no_cfgi(command: Command) -> Option<Command> {
    (!is_cfgi(command)).then_some(command)
}

fn other_asid(command: Command) -> Option<Command> {
    let other = |asid: Asid| Asid::new(asid.raw() ^ 1);
    Some(match command {
        Command::TlbiNhVa { vmid, asid, scope } => Command::TlbiNhVa { vmid, asid: other(asid), scope },
        Command::TlbiNhAsid { vmid, asid } => Command::TlbiNhAsid { vmid, asid: other(asid) },
        command => command,
    })
}

fn other_vmid(command: Command) -> Option<Command> {
    let other = |vmid: Vmid| Vmid::new(vmid.raw() ^ 1);
    Some(match command {
        Command::TlbiNhVa { vmid, asid, scope } => Command::TlbiNhVa { vmid: other(vmid), asid, scope },
        Command::TlbiNhAsid { vmid, asid } => Command::TlbiNhAsid { vmid: other(vmid), asid },
        Command::TlbiS2Ipa { vmid, scope } => Command::TlbiS2Ipa { vmid: other(vmid), scope },
        Command::TlbiS12Vmall { vmid } => Command::TlbiS12Vmall { vmid: other(vmid) },
        command => command,
    })
}

/// The command with its scope changed, if it has one; `None` removes it.
fn scoped(command: Command, change: impl Fn(Scope) -> Option<Scope>) -> Option<Command> {
    Some(match command {
        Command::TlbiNhVa { vmid, asid, scope } => Command::TlbiNhVa { vmid, asid, scope: change(scope)? },
        Command::TlbiS2Ipa { vmid, scope } => Command::TlbiS2Ipa { vmid, scope: change(scope)? },
        command => command,
    })
}

fn pages(scope: Scope) -> u64 {
    scope.extent.bytes().unwrap_or(0x1000) >> 12
}

/// The extent of `pages` pages, or of fewer if that number has no encoding.
fn extent(pages: u64) -> Extent {
    let scale = (0..).find(|scale| pages >> scale <= 32).unwrap_or(0);
    match (pages >> scale, scale) {
        (1, 0) => Extent::Entry,
        (count, _) => Extent::Pages { num: count as u8 - 1, scale, ttl: 0 },
    }
}

fn short(command: Command) -> Option<Command> {
    scoped(command, |scope| match pages(scope) {
        1 => None,
        pages => Some(Scope { extent: extent(pages - 1), ..scope }),
    })
}

fn late(command: Command) -> Option<Command> {
    scoped(command, |scope| match pages(scope) {
        1 => None,
        pages => Some(Scope { start: scope.start + 0x1000, extent: extent(pages - 1), ..scope }),
    })
}

fn one_page(command: Command) -> Option<Command> {
    scoped(command, |scope| Some(Scope { extent: Extent::Entry, ..scope }))
}

fn only_pages(command: Command) -> Option<Command> {
    scoped(command, |scope| match scope.extent {
        Extent::Pages { num, scale, .. } => {
            Some(Scope { extent: Extent::Pages { num, scale, ttl: 3 }, ..scope })
        }
        Extent::Entry => Some(scope),
    })
}

fn leaf(command: Command) -> Option<Command> {
    scoped(command, |scope| Some(Scope { leaf: true, ..scope }))
}

fn other_stream(command: Command) -> Option<Command> {
    Some(match command {
        Command::CfgiSte { stream, leaf } => {
            Command::CfgiSte { stream: StreamId::new(stream.raw() ^ 1), leaf }
        }
        command => command,
    })
}

fn keep_first_level(command: Command) -> Option<Command> {
    Some(match command {
        Command::CfgiSte { stream, .. } => Command::CfgiSte { stream, leaf: true },
        command => command,
    })
}

fn only_context(command: Command) -> Option<Command> {
    Some(match command {
        Command::CfgiSte { stream, leaf } => Command::CfgiCd { stream, substream: 0, leaf },
        command => command,
    })
}

/// Cleaning outside of the command queue.
fn clean(machine: &TestMachine, event: &Instruction) -> bool {
    matches!(event, Instruction::Clean(range) if !machine.is_command_queue(*range))
}

fn clean_commands(machine: &TestMachine, event: &Instruction) -> bool {
    matches!(event, Instruction::Clean(range) if machine.is_command_queue(*range))
}

fn clean_invalidate(_: &TestMachine, event: &Instruction) -> bool {
    matches!(event, Instruction::CleanInvalidate(_))
}

fn dsb(_: &TestMachine, event: &Instruction) -> bool {
    *event == Instruction::Barrier("dsb_sy")
}

fn dmb(_: &TestMachine, event: &Instruction) -> bool {
    *event == Instruction::Barrier("dmb_oshst")
}

//! Mutants of the kernel's cache maintenance; the cache model must detect each.

use super::cache_model::Mutation;
use arch::fake::Event;

/// A deliberate fault in the cache maintenance.
pub struct Mutant {
    pub name: &'static str,
    pub mutation: Mutation,
}

/// All mutants; `doc/judges.md` has the same list.
pub const MUTANTS: &[Mutant] = &[
    Mutant { name: "no clean before a device read", mutation: no_clean },
    Mutant { name: "no clean and invalidate after a device write", mutation: no_clean_invalidate },
    Mutant { name: "clean instead of clean and invalidate", mutation: clean_only },
    Mutant { name: "invalidate instead of clean", mutation: invalidate_for_clean },
    Mutant { name: "invalidate instead of clean and invalidate", mutation: invalidate_only },
    Mutant { name: "no DSB after maintenance", mutation: no_dsb },
    Mutant { name: "no TLB invalidation after an alias is unmapped", mutation: no_tlbi },
    Mutant { name: "no local TLB invalidation after a window is unmapped", mutation: no_own_tlbi },
    Mutant { name: "no barrier between zeroing and mapping", mutation: no_dmb },
    Mutant { name: "maintenance of only the first line of a range", mutation: first_line },
];

fn no_clean(event: Event) -> Option<Event> {
    (!matches!(event, Event::Clean(_))).then_some(event)
}

fn no_clean_invalidate(event: Event) -> Option<Event> {
    (!matches!(event, Event::CleanInvalidate(_))).then_some(event)
}

fn clean_only(event: Event) -> Option<Event> {
    Some(if let Event::CleanInvalidate(range) = event { Event::Clean(range) } else { event })
}

fn invalidate_for_clean(event: Event) -> Option<Event> {
    Some(if let Event::Clean(range) = event { Event::Invalidate(range) } else { event })
}

fn invalidate_only(event: Event) -> Option<Event> {
    Some(if let Event::CleanInvalidate(range) = event { Event::Invalidate(range) } else { event })
}

fn no_dsb(event: Event) -> Option<Event> {
    (!matches!(event, Event::Barrier("dsb_sy"))).then_some(event)
}

fn no_dmb(event: Event) -> Option<Event> {
    (!matches!(event, Event::Barrier("dmb_oshst"))).then_some(event)
}

fn no_tlbi(event: Event) -> Option<Event> {
    (!matches!(event, Event::TlbKernel(..))).then_some(event)
}

fn no_own_tlbi(event: Event) -> Option<Event> {
    (!matches!(event, Event::TlbOwn(_))).then_some(event)
}

fn first_line(event: Event) -> Option<Event> {
    let first =
        |range: addr::AddrRange<addr::KernelVa>| addr::AddrRange::new(range.start(), range.start() + 64);
    Some(match event {
        Event::Clean(range) => Event::Clean(first(range)),
        Event::CleanInvalidate(range) => Event::CleanInvalidate(first(range)),
        event => event,
    })
}

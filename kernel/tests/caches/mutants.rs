//! Mutants of the kernel's cache maintenance: the machine has to notice each.

use super::machine::Mutation;
use arch::fake::Event;

/// What is done wrong.
pub struct Mutant {
    pub name: &'static str,
    pub mutation: Mutation,
}

/// All of them. `doc/testing.md` has the same list.
pub const MUTANTS: &[Mutant] = &[
    Mutant { name: "nothing is cleaned before the device reads", mutation: no_clean },
    Mutant { name: "nothing is dropped after the device wrote", mutation: no_clean_invalidate },
    Mutant { name: "clean where clean and invalidate is meant", mutation: clean_only },
    Mutant { name: "invalidate where clean is meant", mutation: invalidate_for_clean },
    Mutant { name: "invalidate where clean and invalidate is meant", mutation: invalidate_only },
    Mutant { name: "maintenance not waited for", mutation: no_dsb },
    Mutant { name: "an alias taken from the tables and not from the TLBs", mutation: no_tlbi },
    Mutant { name: "a window taken from the tables and not from the TLB", mutation: no_own_tlbi },
    Mutant { name: "zeroes not ordered before what shows them", mutation: no_dmb },
    Mutant { name: "only the first line of a range", mutation: first_line },
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

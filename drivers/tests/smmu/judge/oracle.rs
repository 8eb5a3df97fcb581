//! The oracle: the frames that each access may reach, must reach and must not reach. It is notified of the
//! program's requests to the driver, and independent of the driver's state.
//!
//! A page *may* reach a frame from the request of the mapping until the completion of its invalidation. It
//! *must* reach the frame from the completion of the map to the request of the unmap.

use super::super::test_machine::random::Random;
use addr::{PAGE_SHIFT, PAGE_SIZE, StreamId};
use smmu_spec::model::TransactionResult;
use smmu_spec::{AccessKind, EventKind, EventRecord};
use std::collections::BTreeMap;

/// Events that accesses can cause.
const KNOWN: [EventKind; 3] = [EventKind::Translation, EventKind::Permission, EventKind::BadStreamId];

/// Number of recently changed pages remembered.
const RECENT: usize = 64;

/// Target of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Physical address of the frame.
    pub frame: u64,
    pub writable: bool,
}

impl Target {
    fn allows(self, direction: AccessKind) -> bool {
        direction == AccessKind::Read || self.writable
    }
}

#[derive(Default)]
struct ExpectedPage {
    live: Option<Target>,
    /// Further possible targets, and the step of each.
    also: Vec<(u64, Target)>,
}

/// A stream that sends transactions.
struct Client {
    stream: StreamId,
    /// Domains that it may use.
    may: Vec<usize>,
    /// Domain that it must use.
    must: Option<usize>,
}

/// Expected state of all domains and streams.
#[derive(Default)]
pub struct AccessOracle {
    domains: Vec<BTreeMap<u64, ExpectedPage>>,
    clients: Vec<Client>,
    /// Recently changed pages.
    recent: Vec<(usize, u64)>,
    /// Index in `recent` to be replaced next.
    next: usize,
    /// The domain in which a block is being split: its pages may be invalid meanwhile.
    unsure: Option<usize>,
    pub accesses: u64,
    pub reached: u64,
}

impl AccessOracle {
    pub fn new(domains: usize, streams: &[StreamId]) -> Self {
        let clients = streams.iter().map(|&stream| Client { stream, may: Vec::new(), must: None }).collect();
        Self { domains: (0..domains).map(|_| BTreeMap::new()).collect(), clients, ..Self::default() }
    }

    pub fn stream(&self, client: usize) -> StreamId {
        self.clients[client].stream
    }

    /// A recently changed page, and a stream that may use its domain, if any.
    pub fn recent(&self, random: &mut Random) -> Option<(Option<usize>, u64)> {
        let index = random.below(RECENT as u64) as usize;
        let (domain, page) = *self.recent.get(index)?;
        let first = random.below(self.clients.len() as u64) as usize;
        let others = (first..self.clients.len()).chain(0..first);
        let client = others.into_iter().find(|&client| self.clients[client].may.contains(&domain));
        Some((client, page))
    }

    /// Records a page as recently changed.
    pub fn note(&mut self, domain: usize, page: u64) {
        if self.recent.len() < RECENT {
            self.recent.push((domain, page));
        } else {
            self.recent[self.next] = (domain, page);
            self.next = (self.next + 1) % RECENT;
        }
    }

    /// `page` may lead to `target` from now on, by a request of `step`.
    pub fn may_lead(&mut self, domain: usize, page: u64, step: u64, target: Target) {
        self.domains[domain].entry(page).or_default().also.push((step, target));
        self.note(domain, page);
    }

    /// `page` must lead to its target.
    pub fn leads(&mut self, domain: usize, page: u64, step: u64) {
        let page = self.domains[domain].get_mut(&page).expect("may_lead comes first");
        let at = page.also.iter().position(|(since, _)| *since == step).expect("may_lead comes first");
        page.live = Some(page.also.remove(at).1);
    }

    /// `page` may still lead to its target.
    pub fn is_going(&mut self, domain: usize, page: u64, step: u64) {
        let entry = self.domains[domain].get_mut(&page).expect("it is mapped");
        let target = entry.live.take().expect("it is mapped");
        entry.also.push((step, target));
        self.note(domain, page);
    }

    /// The target of `step` is invalidated.
    pub fn is_gone(&mut self, domain: usize, page: u64, step: u64) {
        let entry = self.domains[domain].get_mut(&page).expect("it was mapped");
        entry.also.retain(|(since, _)| *since != step);
        if entry.live.is_none() && entry.also.is_empty() {
            self.domains[domain].remove(&page);
        }
        self.note(domain, page);
    }

    /// All mappings of the domain are gone.
    pub fn forget_domain(&mut self, domain: usize) {
        self.domains[domain].clear();
    }

    /// Whether the page has no possible target.
    pub fn is_free(&self, domain: usize, page: u64) -> bool {
        !self.domains[domain].contains_key(&page)
    }

    /// Whether the page is mapped.
    pub fn is_live(&self, domain: usize, page: u64) -> bool {
        self.domains[domain].get(&page).is_some_and(|page| page.live.is_some())
    }

    pub fn set_unsure(&mut self, domain: Option<usize>) {
        self.unsure = domain;
    }

    pub fn may_use(&mut self, client: usize, domain: usize) {
        self.clients[client].may.push(domain);
    }

    pub fn uses(&mut self, client: usize, domain: Option<usize>) {
        self.clients[client].must = domain;
        self.clients[client].may = domain.into_iter().collect();
    }

    /// The stream may still use its domain.
    pub fn is_leaving(&mut self, client: usize) {
        self.clients[client].must = None;
    }

    /// Whether an access between two steps has a single legal outcome.
    pub fn is_certain(&self, client: usize, page: u64) -> bool {
        let open =
            |domain: &usize| self.domains[*domain].get(&page).is_some_and(|page| !page.also.is_empty());
        !self.clients[client].may.iter().any(open)
    }

    /// Judges the outcome of an access. Panics on a violation.
    pub fn judge(&mut self, client: usize, at: u64, direction: AccessKind, outcome: TransactionResult) {
        self.accesses += 1;
        match outcome {
            TransactionResult::Bypassed => panic!("stream {} is not translated", self.clients[client].stream),
            TransactionResult::Translated { to, .. } => self.judge_reached(client, at, direction, to),
            TransactionResult::Aborted(kind) => self.judge_aborted(client, at, direction, kind),
        }
    }

    /// Judges an event record: it must belong to an access of the program.
    pub fn judge_event(&self, event: &EventRecord) {
        let known = self.clients.iter().any(|client| client.stream == event.stream);
        assert!(known && KNOWN.contains(&event.kind), "{event}");
    }

    fn judge_reached(&mut self, client: usize, at: u64, direction: AccessKind, to: u64) {
        let (stream, frame) = (self.clients[client].stream, to & !(PAGE_SIZE - 1));
        assert_eq!(to % PAGE_SIZE, at % PAGE_SIZE, "the offset in the page");
        let allowed = self.clients[client].may.iter().any(|&domain| {
            let page = self.domains[domain].get(&(at >> PAGE_SHIFT));
            page.is_some_and(|page| {
                let also = page.also.iter().map(|(_, target)| *target);
                page.live.into_iter().chain(also).any(|to| to.frame == frame && to.allows(direction))
            })
        });
        assert!(allowed, "stream {stream} reaches {to:#x} at {at:#x} ({direction:?}), which is not its own");
        self.reached += 1;
    }

    fn judge_aborted(&mut self, client: usize, at: u64, direction: AccessKind, kind: Option<EventKind>) {
        let client = &self.clients[client];
        // Any other event means that a partially written structure was read.
        assert!(kind.is_none_or(|kind| KNOWN.contains(&kind)), "stream {} meets {kind:?}", client.stream);
        let Some(domain) = client.must.filter(|domain| self.unsure != Some(*domain)) else { return };
        let live = self.domains[domain].get(&(at >> PAGE_SHIFT)).and_then(|page| page.live);
        let due = live.filter(|target| target.allows(direction));
        assert!(
            due.is_none(),
            "stream {} does not reach {due:x?} at {at:#x} ({direction:?}): {kind:?}",
            client.stream
        );
    }
}

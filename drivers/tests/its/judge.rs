//! Random programs of allocations, moves, masks, messages and frees, with commands that stall the queue and
//! an ITS that stops for a time. The model checks the rules of the architecture, the oracle here the delivery
//! of messages.

use crate::model::{CPUS, ItsKind};
use crate::random::Random;
use crate::{Fixture, kinds};
use drivers::gic::its::ItsVector;
use std::collections::{BTreeMap, BTreeSet};

/// The vectors of one allocation, with their expected state.
struct Live {
    vectors: Vec<ItsVector>,
    /// Whether each is unmasked; `None` after an error.
    unmasked: Vec<Option<bool>>,
}

/// The oracle's knowledge.
#[derive(Default)]
struct DeliveryOracle {
    live: Vec<Live>,
    /// LPIs with an undelivered message.
    pending: BTreeSet<u32>,
    /// LPIs of which nothing is known.
    unknown: BTreeSet<u32>,
    delivered: u64,
}

impl DeliveryOracle {
    /// Checks the acknowledged interrupts.
    fn observe(&mut self, taken: Vec<(u16, u32)>) {
        let mut expected = BTreeMap::new();
        for live in &self.live {
            for (vector, unmasked) in live.vectors.iter().zip(&live.unmasked) {
                match unmasked {
                    Some(true) if self.pending.contains(&vector.lpi()) => {
                        expected.insert(vector.lpi(), vector.cpu());
                    }
                    _ => {}
                }
            }
        }
        let mut taken: BTreeMap<u32, u16> = taken.into_iter().map(|(cpu, lpi)| (lpi, cpu)).collect();
        taken.retain(|lpi, _| !self.unknown.contains(lpi));
        expected.retain(|lpi, _| !self.unknown.contains(lpi));
        assert_eq!(taken, expected, "delivered (left) and expected (right) LPIs by CPU");
        self.delivered += taken.len() as u64;
        self.pending.retain(|lpi| !taken.contains_key(lpi));
    }
}

fn run(kind: ItsKind, seed: u64, steps: u32) -> (Fixture, u64) {
    let mut random = Random::new(seed);
    let mut fixture = Fixture::new(kind, seed);
    let mut oracle = DeliveryOracle::default();
    // An LPI is never that of an event whose removal failed.
    let mut lost = BTreeSet::new();
    for _ in 0..steps {
        {
            let mut model = fixture.registers.model();
            model.frozen = random.once_in(60);
            model.until_stall = random.once_in(15).then(|| random.below(6) as u32);
        }
        let pick = random.below(oracle.live.len().max(1) as u64) as usize;
        let cpu = random.below(CPUS.into()) as u16;
        match random.below(8) {
            0 | 1 if oracle.live.len() < 12 => {
                let device = [8, 9, 0x2000, 0x7fff][random.below(4) as usize];
                if let Ok(vectors) = fixture.allocate(device, random.below(5) as u32 + 1, cpu) {
                    let lpis: Vec<_> = vectors.iter().map(ItsVector::lpi).collect();
                    assert!(lpis.iter().all(|lpi| !lost.contains(lpi)), "a lost LPI is reused");
                    for lpi in lpis {
                        oracle.unknown.remove(&lpi);
                        oracle.pending.remove(&lpi);
                    }
                    let unmasked = vec![Some(false); vectors.len()];
                    oracle.live.push(Live { vectors, unmasked });
                }
            }
            2 if !oracle.live.is_empty() => {
                let Live { vectors, .. } = oracle.live.swap_remove(pick);
                let lpis: Vec<_> = vectors.iter().map(ItsVector::lpi).collect();
                let (device, event) = messages(&vectors)[0];
                match fixture.free(vectors) {
                    Ok(()) => {
                        oracle.pending.retain(|lpi| !lpis.contains(lpi));
                        assert_eq!(fixture.registers.model().signal(device, event), None, "a freed event");
                    }
                    // The last command may have failed, after the vectors were freed.
                    Err(_) if fixture.lpis.used() < used(&oracle, &lost) + lpis.len() as u32 => {}
                    Err(_) => {
                        lost.extend(lpis.iter().copied());
                        oracle.unknown.extend(lpis);
                    }
                }
            }
            3 if !oracle.live.is_empty() => {
                let live = &mut oracle.live[pick];
                let at = random.below(live.vectors.len() as u64) as usize;
                if fixture.its.retarget(&mut live.vectors[at], cpu).is_err() {
                    oracle.unknown.insert(live.vectors[at].lpi());
                }
            }
            4 | 5 if !oracle.live.is_empty() => {
                let live = &mut oracle.live[pick];
                let at = random.below(live.vectors.len() as u64) as usize;
                let enabled = random.once_in(2);
                match fixture.set_enabled(&live.vectors[at], enabled) {
                    Ok(()) => live.unmasked[at] = Some(enabled),
                    Err(_) => {
                        oracle.unknown.insert(live.vectors[at].lpi());
                    }
                }
            }
            _ if !oracle.live.is_empty() => {
                let (device, event) = messages(&oracle.live[pick].vectors)[0];
                if let Some(lpi) = fixture.registers.model().signal(device, event) {
                    oracle.pending.insert(lpi);
                }
            }
            _ => {}
        }
        arch::fake::take();
        let taken = fixture.taken();
        oracle.observe(taken);
    }
    let delivered = oracle.delivered;
    (fixture, delivered)
}

fn used(oracle: &DeliveryOracle, lost: &BTreeSet<u32>) -> u32 {
    let live: usize = oracle.live.iter().map(|live| live.vectors.len()).sum();
    (live + lost.len()) as u32
}

fn messages(vectors: &[ItsVector]) -> Vec<(u32, u32)> {
    vectors.iter().map(|vector| (vector.device(), vector.event())).collect()
}

#[test]
fn random_programs_keep_the_rules_of_the_architecture() {
    let (programs, steps) = if cfg!(miri) { (1, 20) } else { (3, 300) };
    let (mut delivered, mut wraps, mut stalls) = (0, 0, 0);
    for kind in kinds() {
        for seed in 0..programs {
            let (fixture, count) = run(kind, seed, steps);
            let model = fixture.registers.model();
            delivered += count;
            wraps += model.wraps;
            stalls += model.stalls;
        }
    }
    println!("{delivered} delivered, {wraps} wraps, {stalls} stalls");
    let many = if cfg!(miri) { 0 } else { 100 };
    assert!(delivered >= many && wraps >= many && stalls >= many, "{delivered} {wraps} {stalls}");
}

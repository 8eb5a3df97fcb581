//! Random maps and unmaps, judged page by page.

use super::*;

/// A page that random domains pass around: who may reach it at this moment.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Owner {
    Nobody,
    /// Domain and page number.
    Mapped(usize, u64),
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }
}

#[test]
fn no_device_ever_reaches_a_page_that_is_free_or_another_domains() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let streams = [StreamId::new(1), StreamId::new(9)];
        let mut domains = streams.map(|stream| rig.attached(stream));
        let frame = |index: usize| 0x1_0000_0000 + index as u64 * PAGE_SIZE;
        let mut owners = [Owner::Nobody; 24];
        let mut numbers = Numbers(u64::from(ids.idr[0]));
        for _ in 0..600 {
            let (which, page) = (numbers.below(2) as usize, numbers.below(40));
            let at = page * 0x8_0000;
            match owners.iter().position(|owner| *owner == Owner::Mapped(which, page)) {
                Some(index) => {
                    let stale = rig.unmap(&mut domains[which], at, 1, index);
                    owners[rig.free(stale)] = Owner::Nobody;
                }
                None => {
                    let free = owners.iter().position(|owner| *owner == Owner::Nobody);
                    let Some(index) = free else { continue };
                    rig.map(&mut domains[which], at, &[chunk(frame(index), 0)]).unwrap();
                    owners[index] = Owner::Mapped(which, page);
                }
            }
            for (which, stream) in streams.into_iter().enumerate() {
                let page = numbers.below(40);
                let expected = owners.iter().position(|owner| *owner == Owner::Mapped(which, page));
                let reached = match rig.access(stream, page * 0x8_0000, WRITE) {
                    Outcome::Translated { to, .. } => Some(to),
                    _ => None,
                };
                assert_eq!(reached, expected.map(frame), "{which} {page} {ids:x?} {walks:?}");
            }
            rig.reports();
        }
    }
}

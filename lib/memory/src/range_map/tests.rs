use super::*;
use addr::{Iova, PAGE_SIZE};
use proptest::prelude::*;

fn range(start: u64, end: u64) -> AddrRange<Iova> {
    AddrRange::new(Iova::new(start * PAGE_SIZE), Iova::new(end * PAGE_SIZE))
}

/// The pages of the model's space.
const PAGES: u64 = 40;

/// A page-by-page model: the number of the range at each page.
struct ModelPages {
    pages: [Option<u64>; PAGES as usize],
}

impl ModelPages {
    fn of(&self, (start, end): (u64, u64)) -> &[Option<u64>] {
        &self.pages[start as usize..end as usize]
    }

    fn range_of(&self, number: u64) -> AddrRange<Iova> {
        let pages = (0..PAGES).filter(|&page| self.pages[page as usize] == Some(number));
        let (first, last) = (pages.clone().min().unwrap(), pages.max().unwrap());
        range(first, last + 1)
    }
}

proptest! {
    #[test]
    fn ranges_match_a_model_of_pages(
        steps in proptest::collection::vec((0u8..4, 0..PAGES, 1..9u64), 1..60)
    ) {
        let (mut map, mut model) = (RangeMap::new(), ModelPages { pages: [None; PAGES as usize] });
        for (number, (action, start, len)) in steps.into_iter().enumerate() {
            let (number, end) = (number as u64, (start + len).min(PAGES));
            let (touched, pages) = (model.of((start, end)).to_vec(), range(start, end));
            let first = touched.iter().flatten().next().map(|&first| model.range_of(first));
            prop_assert_eq!(map.first_overlap(pages), first);
            let split = touched.iter().flatten().map(|&number| model.range_of(number));
            let split = split.clone().find(|entry| !pages.covers(entry));
            prop_assert_eq!(map.first_split(pages), split);
            match action {
                0 | 1 => {
                    let inserted = map.insert(pages, number);
                    prop_assert_eq!(inserted.is_ok(), first.is_none());
                    if inserted.is_ok() {
                        model.pages[start as usize..end as usize].fill(Some(number));
                    }
                }
                2 => {
                    let at = Iova::new(start * PAGE_SIZE);
                    let starts = model.pages[start as usize]
                        .filter(|&number| model.range_of(number).start() == at);
                    let expected = starts.map(|number| (model.range_of(number), number));
                    prop_assert_eq!(map.remove(at), expected);
                    for page in &mut model.pages {
                        *page = page.filter(|page| Some(*page) != starts);
                    }
                }
                _ => {
                    let reserved = [range(3, 5)];
                    let free = |at: u64| model.of((at, at + len)).iter().all(Option::is_none);
                    let expected = (start..PAGES + 1 - len.min(PAGES - start + 1))
                        .filter(|at| at + len <= PAGES && at % 2 == 0 && (at + len <= 3 || *at >= 5))
                        .find(|&at| free(at));
                    let expected = expected.map(|at| range(at, at + len));
                    let found = map.find_gap(range(start, PAGES), len * PAGE_SIZE, 2 * PAGE_SIZE, &reserved);
                    prop_assert_eq!(found, expected);
                }
            }
            let all: Vec<_> = map.iter().map(|(range, &number)| (range, number)).collect();
            prop_assert!(all.iter().all(|&(range, number)| model.range_of(number) == range));
            prop_assert_eq!(map.len(), all.len());
        }
    }
}

#[test]
fn empty_range_is_not_inserted() {
    let mut map = RangeMap::new();
    assert_eq!(map.insert(range(3, 3), 'a'), Err('a'));
    assert!(map.is_empty());
    map.insert(range(2, 4), 'b').unwrap();
    assert_eq!(map.first_overlap(range(3, 3)), None);
}

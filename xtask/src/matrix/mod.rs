//! The matrix: every machine and every boot, a row each. To add a case, add a row to the file of its kind;
//! [`bases`] has the bases of rows, [`devices`] the devices.

mod bases;
mod case;
mod devices;
mod invalid_input;
mod selftests;
mod shapes;
mod trees;
mod workloads;

pub use bases::CHECKING;
pub use case::{BootMethod, Case, KernelBuild, Tier};

/// All cases.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [selftests::CASES, shapes::CASES, workloads::CASES, invalid_input::CASES, trees::CASES]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::devices::{NUMA, SECOND_ROOT, STAGE2_ONLY};
    use super::*;
    use crate::machine::EDU;
    use crate::{glob, workspace};

    type Predicate = fn(&Case) -> bool;

    #[test]
    fn case_names_are_unique_file_names() {
        let names: BTreeSet<_> = cases().map(|case| case.name).collect();
        assert_eq!(names.len(), cases().count());
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        assert!(names.iter().all(|name| !name.is_empty() && name.chars().all(allowed)));
    }

    #[test]
    fn every_pattern_matches_a_self_test() {
        let self_tests = workspace::self_tests();
        for case in cases() {
            let patterns = case.append.split_whitespace().find_map(|word| word.strip_prefix("selftest="));
            for pattern in patterns.into_iter().flat_map(|patterns| patterns.split(',')) {
                let is_used = self_tests.iter().any(|test| glob::matches(pattern, test));
                assert!(is_used, "{}: {pattern}", case.name);
            }
        }
    }

    #[test]
    fn every_required_machine_is_covered() {
        let selftests = || cases().filter(|case| case.append.starts_with("selftest"));
        let shapes: &[(&str, Predicate)] = &[
            ("GICv2", |case| case.gic == 2),
            ("GICv3", |case| case.gic == 3),
            ("1 CPU", |case| case.cpus == "1"),
            ("4 CPUs", |case| case.cpus == "4"),
            ("512 MiB", |case| case.memory == "512M"),
            ("4 GiB", |case| case.memory == "4G"),
            ("stage 1 only", |case| case.board == "virt-9.1" && case.devices == EDU),
            ("stage 2 only", |case| case.devices == STAGE2_ONLY),
            ("EL2 entry", |case| case.options.contains("virtualization=on")),
            ("no SMMU", |case| !case.smmu),
            ("8 CPUs", |case| case.cpus == "8"),
            ("256 MiB", |case| case.memory == "256M"),
            ("300 GiB", |case| case.memory == "300G"),
            ("NUMA", |case| case.devices == NUMA),
            ("a second PCI root", |case| case.devices == SECOND_ROOT),
            ("low ECAM", |case| case.options.contains("highmem-ecam=off")),
            ("all low", |case| case.options.contains("highmem=off")),
            ("no ITS", |case| case.gic == 3 && case.options.contains("its=off")),
            ("EL2 without VHE", |case| {
                case.cpu == "cortex-a72" && case.options.contains("virtualization=on")
            }),
            ("EL2 with VHE", |case| case.cpu == "neoverse-n1" && case.options.contains("virtualization=on")),
            ("EL3 entry", |case| matches!(case.start, BootMethod::El3(_))),
            ("a slow timer", |case| case.cpu.contains("cntfrq=1000000")),
        ];
        for (shape, is) in shapes {
            assert!(selftests().any(*is), "{shape}");
        }
    }
}

//! The initial process stack (System V ABI for AArch64, "Process initialization"; auxiliary vector:
//! `getauxval(3)`).

use abi::auxv::*;
use addr::{AddrRange, UserVa};
use alloc::vec::Vec;

/// The maximum size of arguments, environment and tables together, in bytes.
pub const ARGUMENTS_MAX: usize = 128 << 10;

/// The content of the initial stack.
#[derive(Clone, Copy, Debug)]
pub struct StackRequest<'a> {
    /// The end of the stack (exclusive).
    pub top: UserVa,
    /// The path of the executable (`AT_EXECFN`).
    pub path: &'a [u8],
    /// `argv`.
    pub arguments: &'a [&'a [u8]],
    /// `envp`.
    pub environment: &'a [&'a [u8]],
    /// Sixteen random bytes (`AT_RANDOM`).
    pub random: [u8; 16],
    /// Further entries of the auxiliary vector, from the loader and the machine.
    pub auxiliary: &'a [(u64, u64)],
}

/// The initial stack: bytes and stack pointer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StackImage {
    /// The initial stack pointer: 16-byte aligned, the address of the first of `bytes`.
    pub pointer: UserVa,
    /// The bytes from the stack pointer to the top.
    pub bytes: Vec<u8>,
    /// The auxiliary vector: pairs of key and value.
    pub auxiliary: Vec<u64>,
    /// The strings of `argv`.
    pub arguments: AddrRange<UserVa>,
    /// The strings of `envp`.
    pub environment: AddrRange<UserVa>,
}

/// The stack cannot be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackImageError {
    /// The size in bytes of arguments, environment and tables exceeds [`ARGUMENTS_MAX`] (`E2BIG`).
    TooLong(usize),
    /// No memory.
    OutOfMemory,
}

/// The strings at the top of the stack, filled downwards.
struct StringArea {
    /// The bytes so far, last byte first.
    reversed: Vec<u8>,
    top: u64,
}

impl StringArea {
    fn push(&mut self, bytes: &[u8]) -> u64 {
        self.reversed.extend(bytes.iter().rev());
        self.top - self.reversed.len() as u64
    }
    /// The address of the string that was pushed last.
    fn end(&self) -> UserVa {
        UserVa::new(self.top - self.reversed.len() as u64)
    }
    fn push_string(&mut self, string: &[u8]) -> u64 {
        self.reversed.push(0);
        self.push(string)
    }
}

impl StackImage {
    /// Builds the stack: strings at the top, below them the auxiliary vector, `envp`, `argv` and, at the
    /// stack pointer, `argc`.
    pub fn build(request: &StackRequest<'_>) -> Result<Self, StackImageError> {
        let size = request.size();
        if size > ARGUMENTS_MAX {
            return Err(StackImageError::TooLong(size));
        }
        let mut strings = StringArea { reversed: reserved(size)?, top: request.top.raw() };
        strings.push(&[0; 8]);
        let path = strings.push_string(request.path);
        let environment_end = strings.end();
        let environment = push_strings(&mut strings, request.environment)?;
        let arguments_end = strings.end();
        let arguments = push_strings(&mut strings, request.arguments)?;
        let ranges = [(strings.end(), arguments_end), (arguments_end, environment_end)];
        let [argument_range, environment_range] = ranges.map(|(start, end)| AddrRange::new(start, end));
        let platform = strings.push_string(abi::MACHINE.as_bytes());
        let random = strings.push(&request.random);

        let auxiliary_words = 2 * request.auxiliary.len() + 8;
        let mut words = reserved(arguments.len() + environment.len() + 3 + auxiliary_words)?;
        words.push(request.arguments.len() as u64);
        words.extend(arguments.into_iter().chain([0]).chain(environment).chain([0]));
        let mut auxiliary = reserved(auxiliary_words)?;
        auxiliary.extend(request.auxiliary.iter().flat_map(|&(key, value)| [key, value]));
        auxiliary.extend([AT_EXECFN, path, AT_PLATFORM, platform, AT_RANDOM, random, AT_NULL, 0]);
        words.extend(&auxiliary);

        let bytes_below = words.len() as u64 * 8;
        let pointer = (strings.top - strings.reversed.len() as u64 - bytes_below) & !15;
        let mut bytes = reserved((request.top.raw() - pointer) as usize)?;
        bytes.extend(words.iter().flat_map(|word: &u64| word.to_le_bytes()));
        bytes.resize((strings.top - pointer) as usize - strings.reversed.len(), 0);
        bytes.extend(strings.reversed.iter().rev());
        Ok(Self {
            pointer: UserVa::new(pointer),
            bytes,
            auxiliary,
            arguments: argument_range,
            environment: environment_range,
        })
    }
}

impl StackRequest<'_> {
    /// An upper bound of the size.
    fn size(&self) -> usize {
        let strings = self.arguments.iter().chain(self.environment).chain([&self.path]);
        let tables = 8 * (self.arguments.len() + self.environment.len() + 2 * self.auxiliary.len());
        strings.map(|string| string.len() + 1).sum::<usize>() + tables + 256
    }
}

/// The addresses of the strings of `list`.
fn push_strings(strings: &mut StringArea, list: &[&[u8]]) -> Result<Vec<u64>, StackImageError> {
    let mut addresses = reserved(list.len())?;
    addresses.extend(list.iter().rev().map(|string| strings.push_string(string)));
    addresses.reverse();
    Ok(addresses)
}

/// An empty list with room for `len` items.
fn reserved<T>(len: usize) -> Result<Vec<T>, StackImageError> {
    let mut list = Vec::new();
    list.try_reserve_exact(len).map_err(|_| StackImageError::OutOfMemory)?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x7fff_0000;

    fn request<'a>(arguments: &'a [&'a [u8]], environment: &'a [&'a [u8]]) -> StackRequest<'a> {
        StackRequest {
            top: UserVa::new(TOP),
            path: b"/bin/x",
            arguments,
            environment,
            random: *b"0123456789abcdef",
            auxiliary: &[(AT_PAGESZ, 4096), (AT_SECURE, 0)],
        }
    }

    /// Reads the image like C startup code.
    struct StackReader<'a>(&'a StackImage);

    impl StackReader<'_> {
        fn word(&self, index: usize) -> u64 {
            u64::from_le_bytes(self.0.bytes[8 * index..][..8].try_into().unwrap())
        }
        fn string(&self, at: u64) -> &str {
            let bytes = &self.0.bytes[(at - self.0.pointer.raw()) as usize..];
            core::str::from_utf8(bytes.split(|&b| b == 0).next().unwrap()).unwrap()
        }
        fn auxiliary(&self, from: usize) -> Vec<(u64, u64)> {
            (from..)
                .step_by(2)
                .map(|i| (self.word(i), self.word(i + 1)))
                .take_while(|e| e.0 != AT_NULL)
                .collect()
        }
    }

    #[test]
    fn image_has_argc_argv_envp_and_auxv() {
        let image = StackImage::build(&request(&[b"x", b"-v", b""], &[b"A=1"])).unwrap();
        let reader = StackReader(&image);
        assert_eq!(image.pointer.raw() % 16, 0);
        assert_eq!(image.pointer.raw() + image.bytes.len() as u64, TOP);
        assert_eq!(reader.word(0), 3);
        assert_eq!([1, 2, 3].map(|i| reader.string(reader.word(i))), ["x", "-v", ""]);
        assert_eq!((reader.word(4), reader.string(reader.word(5)), reader.word(6)), (0, "A=1", 0));
        let auxiliary = reader.auxiliary(7);
        let value = |key| auxiliary.iter().find(|e| e.0 == key).unwrap().1;
        assert_eq!((value(AT_PAGESZ), value(AT_SECURE)), (4096, 0));
        assert_eq!(
            (reader.string(value(AT_EXECFN)), reader.string(value(AT_PLATFORM))),
            ("/bin/x", "aarch64")
        );
        assert!(reader.string(value(AT_RANDOM)).starts_with("0123456789abcdef"));
    }

    #[test]
    fn stack_pointer_is_aligned_for_any_string_length() {
        for length in 0..40 {
            let string = vec![b'x'; length];
            let image = StackImage::build(&request(&[&string], &[])).unwrap();
            assert_eq!((image.pointer.raw() % 16, StackReader(&image).word(0)), (0, 1));
            assert_eq!(image.pointer.raw() + image.bytes.len() as u64, TOP);
        }
    }

    #[test]
    fn arguments_up_to_the_limit_are_accepted() {
        let string = vec![b'x'; ARGUMENTS_MAX + 1 - request(&[b""], &[]).size()];
        let built = |len| StackImage::build(&request(&[&string[..len]], &[])).map(drop);
        assert_eq!(built(string.len() - 1), Ok(()));
        assert_eq!(built(string.len()), Err(StackImageError::TooLong(ARGUMENTS_MAX + 1)));
    }

    #[test]
    fn oversized_arguments_are_rejected() {
        let string = vec![b'x'; ARGUMENTS_MAX];
        let long: &[&[u8]] = &[&string];
        let empty: &[u8] = b"";
        let many = &[empty; ARGUMENTS_MAX / 8][..];
        for (arguments, environment) in [(long, &[][..]), (&[][..], long), (many, &[][..]), (&[][..], many)] {
            let built = StackImage::build(&request(arguments, environment));
            assert!(
                matches!(built, Err(StackImageError::TooLong(size)) if size > ARGUMENTS_MAX),
                "{}",
                arguments.len()
            );
        }
    }
}

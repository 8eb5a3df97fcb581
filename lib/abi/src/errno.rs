//! Linux's error codes, as far as Tessera returns them.

use core::fmt;

macro_rules! errors {
    ($($name:ident = $number:literal $text:literal),* $(,)?) => {
        /// An error code; a system call returns its negative.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Errno {
            $(#[doc = concat!($text, ".")] $name = $number,)*
        }

        impl Errno {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// What it means, in words.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

errors! {
    EPERM = 1 "operation not permitted",
    ENOENT = 2 "no such file or directory",
    ESRCH = 3 "no such process",
    EINTR = 4 "interrupted",
    EIO = 5 "input or output error",
    ENXIO = 6 "no such device or address",
    E2BIG = 7 "argument list too long",
    ENOEXEC = 8 "not an executable file",
    EBADF = 9 "bad file descriptor",
    EAGAIN = 11 "try again",
    ENOMEM = 12 "out of memory or nothing mapped there",
    EACCES = 13 "permission denied",
    EFAULT = 14 "bad address",
    EBUSY = 16 "busy",
    EEXIST = 17 "exists already",
    ENODEV = 19 "no such device",
    ENOTDIR = 20 "not a directory",
    EISDIR = 21 "is a directory",
    EINVAL = 22 "invalid argument",
    EMFILE = 24 "too many open files",
    ENOTTY = 25 "not a request this file knows",
    EFBIG = 27 "file too large",
    ENOSPC = 28 "no space left",
    ESPIPE = 29 "cannot seek",
    EROFS = 30 "read-only file system",
    ERANGE = 34 "result too large for the buffer",
    ENAMETOOLONG = 36 "name too long",
    ENOSYS = 38 "no such system call",
    ELOOP = 40 "too many symbolic links",
    EOVERFLOW = 75 "value too large",
    EOPNOTSUPP = 95 "operation not supported",
    ETIMEDOUT = 110 "timed out",
}

impl Errno {
    /// The number.
    pub const fn number(self) -> i32 {
        self as i32
    }
    /// What a system call leaves in x0 for it: the negative number.
    pub const fn to_result(self) -> u64 {
        -(self as i64) as u64
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self, self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_negative_numbers() {
        assert_eq!(Errno::EPERM.to_result(), u64::MAX);
        assert_eq!(Errno::ENOSYS.to_result(), 0xffff_ffff_ffff_ffda);
        assert!(Errno::ALL.iter().all(|e| e.to_result() > (-4096i64) as u64));
        assert_eq!(Errno::ETIMEDOUT.to_string(), "ETIMEDOUT (timed out)");
    }
}

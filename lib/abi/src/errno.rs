//! Linux error codes that Tessera returns.

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
            /// All codes in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The description, as by `strerror(3)`.
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
    EIO = 5 "input/output error",
    ENXIO = 6 "no such device or address",
    E2BIG = 7 "argument list too long",
    ENOEXEC = 8 "exec format error",
    EBADF = 9 "bad file descriptor",
    ECHILD = 10 "no child processes",
    EAGAIN = 11 "resource temporarily unavailable",
    ENOMEM = 12 "cannot allocate memory",
    EACCES = 13 "permission denied",
    EFAULT = 14 "bad address",
    EBUSY = 16 "device or resource busy",
    EEXIST = 17 "file exists",
    EXDEV = 18 "invalid cross-device link",
    ENODEV = 19 "no such device",
    ENOTDIR = 20 "not a directory",
    EISDIR = 21 "is a directory",
    EINVAL = 22 "invalid argument",
    EMFILE = 24 "too many open files",
    ENOTTY = 25 "inappropriate ioctl for device",
    EFBIG = 27 "file too large",
    ENOSPC = 28 "no space left on device",
    ESPIPE = 29 "illegal seek",
    EROFS = 30 "read-only file system",
    EPIPE = 32 "broken pipe",
    ERANGE = 34 "numerical result out of range",
    EDEADLK = 35 "resource deadlock avoided",
    ENAMETOOLONG = 36 "file name too long",
    ENOSYS = 38 "function not implemented",
    ENOTEMPTY = 39 "directory not empty",
    ELOOP = 40 "too many levels of symbolic links",
    EOVERFLOW = 75 "value too large for defined data type",
    EBADFD = 77 "file descriptor in bad state",
    ELIBBAD = 80 "accessing a corrupted shared library",
    ENOTSOCK = 88 "not a socket",
    EMSGSIZE = 90 "message too long",
    EPROTONOSUPPORT = 93 "protocol not supported",
    ESOCKTNOSUPPORT = 94 "socket type not supported",
    EOPNOTSUPP = 95 "operation not supported",
    EAFNOSUPPORT = 97 "address family not supported",
    EADDRINUSE = 98 "address already in use",
    EISCONN = 106 "socket is already connected",
    ETIMEDOUT = 110 "timed out",
}

impl Errno {
    /// The number.
    pub const fn number(self) -> i32 {
        self as i32
    }
    /// The system call result in x0: the negative number.
    pub const fn to_result(self) -> u64 {
        -(self as i64) as u64
    }
}

/// A text is formatted into memory, and the only error of that is a lack of it.
impl From<fmt::Error> for Errno {
    fn from(_: fmt::Error) -> Self {
        Self::ENOMEM
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
    fn syscall_results_are_negative() {
        assert_eq!(Errno::EPERM.to_result(), u64::MAX);
        assert_eq!(Errno::ENOSYS.to_result(), 0xffff_ffff_ffff_ffda);
        assert!(Errno::ALL.iter().all(|e| e.to_result() > (-4096i64) as u64));
        assert_eq!(Errno::ETIMEDOUT.to_string(), "ETIMEDOUT (timed out)");
    }
}

//! Files and directories in memory, in a directory of their own below `/dev/shm`, which is a tmpfs on Linux
//! too.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::result::{ProbeResult, ensure, expect_error};

/// A directory that is removed with all files in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> io::Result<Self> {
        let path = PathBuf::from(format!("/dev/shm/probe-{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The directory may be gone already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap_or_default()).unwrap_or_default()
}

/// The result of a call that returns -1 after an error.
fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn allocate(file: &File, mode: i32, offset: i64, len: i64) -> io::Result<i64> {
    // SAFETY: no pointer.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }.into())
}

fn seek(file: &File, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: no pointer.
    checked(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
}

/// Bytes are stored, also far behind the end, and cut.
pub fn content(_: &[String]) -> ProbeResult {
    let scratch = Scratch::new("content")?;
    let mut file = scratch.file("a")?;
    let bytes: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    file.write_all(&bytes)?;
    let mut found = vec![0; 20_000];
    file.read_exact_at(&mut found, 0)?;
    ensure(found == bytes && file.metadata()?.len() == 20_000, || "20 000 bytes".into())?;
    ensure(file.read(&mut found)? == 0, || "read at the end".into())?;

    file.set_len(5000)?;
    file.set_len(9000)?;
    file.read_exact_at(&mut found[..9000], 0)?;
    ensure(found[..5000] == bytes[..5000] && found[5000..9000].iter().all(|&byte| byte == 0), || {
        "bytes after a truncation".into()
    })?;
    file.write_all_at(b"end", 1 << 40)?;
    let metadata = file.metadata()?;
    ensure(metadata.len() == (1 << 40) + 3 && metadata.blocks() == 24, || format!("{metadata:?}"))?;
    let data = [seek(&file, 100, libc::SEEK_HOLE)?, seek(&file, 12_288, libc::SEEK_DATA)?];
    ensure(data == [8192, 1 << 40], || format!("hole and data at {data:?}"))?;
    expect_error("data at the end", seek(&file, (1 << 40) + 3, libc::SEEK_DATA), libc::ENXIO)?;
    expect_error("a size of 2^63", seek(&file, i64::MAX, libc::SEEK_CUR), libc::EINVAL)?;

    let keep = libc::FALLOC_FL_KEEP_SIZE;
    file.set_len(12_288)?;
    allocate(&file, keep | libc::FALLOC_FL_PUNCH_HOLE, 100, 8192)?;
    file.read_exact_at(&mut found[..8400], 0)?;
    ensure(found[..100] == bytes[..100] && found[100..8292].iter().all(|&byte| byte == 0), || "hole".into())?;
    ensure(file.metadata()?.blocks() == 8, || format!("{:?} after the hole", file.metadata()))?;
    allocate(&file, keep, 1 << 20, 4096)?;
    ensure(file.metadata()?.len() == 12_288, || "size kept".into())?;
    allocate(&file, 0, 12_000, 1000)?;
    ensure(file.metadata()?.len() == 13_000, || "size extended".into())?;
    for (mode, offset, len, error) in [
        (0, -1, 5, libc::EINVAL),
        (0, 0, 0, libc::EINVAL),
        (0, i64::MAX, 1, libc::EFBIG),
        (libc::FALLOC_FL_PUNCH_HOLE, 0, 5, libc::EOPNOTSUPP),
    ] {
        expect_error("fallocate", allocate(&file, mode, offset, len), error)?;
    }

    // Every write of a file that is opened for appending is at the end.
    let mut appended = OpenOptions::new().append(true).open(scratch.path("a"))?;
    file.set_len(3)?;
    appended.write_all(b"xyz")?;
    file.write_all_at(b"12", 1)?;
    appended.write_all(b"!")?;
    ensure(fs::read(scratch.path("a"))? == [0, b'1', b'2', b'x', b'y', b'z', b'!'], || "appended".into())?;
    file.seek(SeekFrom::Start(2))?;
    file.write_all(b"#")?;
    ensure(file.stream_position()? == 3, || "position".into())?;
    expect_error("a read of a file open for writing", appended.read(&mut [0]), libc::EBADF)
}

/// A read and a write transfer the bytes before a page that cannot be accessed.
pub fn faults(_: &[String]) -> ProbeResult {
    let scratch = Scratch::new("faults")?;
    let file = scratch.file("a")?;
    // SAFETY: a new mapping, of which the second page becomes inaccessible.
    let page = unsafe {
        let pages = libc::mmap(
            std::ptr::null_mut(),
            8192,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if pages == libc::MAP_FAILED || libc::munmap(pages.byte_add(4096), 4096) != 0 {
            return Err(io::Error::last_os_error().into());
        }
        pages
    };
    let descriptor = file.as_raw_fd();
    // SAFETY: the last 100 bytes of the page; the kernel checks the rest.
    let (written, read, none) = unsafe {
        let end = page.byte_add(3996);
        end.cast::<u8>().write_bytes(b'x', 100);
        let written = libc::pwrite(descriptor, end, 5000, 10);
        let read = libc::pread(descriptor, end, 5000, 0);
        (written, read, libc::pwrite(descriptor, page.byte_add(4096), 5, 0))
    };
    ensure((written, read) == (100, 100), || format!("{written} bytes written, {read} read"))?;
    expect_error("a write of unmapped memory", checked(none as i64), libc::EFAULT)?;
    ensure(file.metadata()?.len() == 110, || format!("{:?}", file.metadata()))
}

/// Names are made, linked, moved and removed, with Linux's errors.
pub fn names(_: &[String]) -> ProbeResult {
    let scratch = Scratch::new("names")?;
    let path = |name: &str| scratch.path(name);
    fs::write(path("a"), "a")?;
    expect_error("an existing file", File::create_new(path("a")), libc::EEXIST)?;
    fs::hard_link(path("a"), path("b"))?;
    let inode = |name: &str| fs::metadata(path(name)).map(|found| (found.ino(), found.nlink()));
    ensure(inode("a")? == inode("b")? && inode("a")?.1 == 2, || "two names".into())?;
    fs::remove_file(path("a"))?;
    ensure(inode("b")?.1 == 1 && fs::read(path("b"))? == b"a", || "one name".into())?;

    fs::create_dir(path("d"))?;
    fs::create_dir(path("d/e"))?;
    ensure(inode("d")?.1 == 3, || format!("{:?} links of a directory", inode("d")))?;
    fs::rename(path("b"), path("d/e/f"))?;
    fs::rename(path("d/e"), path("e"))?;
    ensure(fs::read(path("e/f"))? == b"a" && inode("d")?.1 == 2, || "moved".into())?;
    for (what, result, error) in [
        ("a directory into itself", fs::rename(path("e"), path("e/g")), libc::EINVAL),
        ("a directory over a file", fs::rename(path("d"), path("e/f")), libc::ENOTDIR),
        ("a file over a directory", fs::rename(path("e/f"), path("d")), libc::EISDIR),
        ("a directory over one with files", fs::rename(path("d"), path("e")), libc::ENOTEMPTY),
        ("a directory over its parent", fs::rename(path("e/f"), path("e")), libc::ENOTEMPTY),
        ("a missing file", fs::rename(path("x"), path("y")), libc::ENOENT),
        ("unlink of a directory", fs::remove_file(path("d")), libc::EISDIR),
        ("rmdir of a file", fs::remove_dir(path("e/f")), libc::ENOTDIR),
        ("rmdir of a directory with files", fs::remove_dir(path("e")), libc::ENOTEMPTY),
        ("mkdir of an existing file", fs::create_dir(path("e/f")), libc::EEXIST),
        ("mkdir below a file", fs::create_dir(path("e/f/g")), libc::ENOTDIR),
        ("a link to a directory", fs::hard_link(path("d"), path("g")), libc::EPERM),
        ("a long name", fs::create_dir(path(&"n".repeat(256))), libc::ENAMETOOLONG),
        ("a file with a slash", fs::write(path("new/"), ""), libc::EISDIR),
        ("chdir to a file", std::env::set_current_dir(path("e/f")), libc::ENOTDIR),
    ] {
        expect_error(what, result, error)?;
    }
    let no_replace = |old: &str, new: &str| {
        let (old, new) = (c_path(&path(old)), c_path(&path(new)));
        // SAFETY: both strings live.
        checked(unsafe {
            libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, old.as_ptr(), libc::AT_FDCWD, new.as_ptr(), 1)
        })
    };
    expect_error("an existing name", no_replace("e/f", "d"), libc::EEXIST)?;
    no_replace("e/f", "f")?;

    // An open file without names keeps its content.
    let mut open = File::open(path("f"))?;
    fs::remove_file(path("f"))?;
    let mut text = String::new();
    open.read_to_string(&mut text)?;
    ensure(text == "a" && open.metadata()?.nlink() == 0, || format!("{text:?}, {:?}", open.metadata()))
}

/// Symbolic links are followed, and limited.
pub fn links(_: &[String]) -> ProbeResult {
    let scratch = Scratch::new("links")?;
    let path = |name: &str| scratch.path(name);
    symlink("target", path("link"))?;
    expect_error("a link to nothing", fs::read(path("link")), libc::ENOENT)?;
    fs::write(path("link"), "created")?;
    ensure(fs::read(path("target"))? == b"created", || "created through the link".into())?;
    expect_error("O_EXCL at a link", File::create_new(path("link")), libc::EEXIST)?;
    ensure(fs::read_link(path("link"))? == Path::new("target"), || "readlink".into())?;
    let no_follow = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path("link"));
    expect_error("O_NOFOLLOW", no_follow, libc::ELOOP)?;
    symlink("loop", path("loop"))?;
    expect_error("a loop", fs::read(path("loop")), libc::ELOOP)?;
    let metadata = fs::symlink_metadata(path("link"))?;
    ensure(metadata.len() == 6 && metadata.file_type().is_symlink(), || format!("{metadata:?}"))?;
    expect_error("a directory as a file", fs::read(&scratch.0), libc::EISDIR)?;
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path("target"));
    expect_error("a file as a directory", directory, libc::ENOTDIR)?;

    // A descriptor of a path only. The standard library removes O_PATH with musl.
    let link = c_path(&path("link"));
    // SAFETY: the string lives.
    let named = unsafe { libc::open(link.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) };
    checked(named.into())?;
    // SAFETY: the descriptor is new, and owned by nothing else.
    let named = File::from(unsafe { OwnedFd::from_raw_fd(named) });
    ensure(named.metadata()?.file_type().is_symlink(), || "O_PATH of a link".into())?;
    expect_error("a read of a path", (&named).read(&mut [0]), libc::EBADF)
}

/// A directory is listed while it changes; each file that stays is seen once.
pub fn listing(_: &[String]) -> ProbeResult {
    let scratch = Scratch::new("listing")?;
    for n in 0..3000 {
        File::create(scratch.path(&format!("file-{n}")))?;
    }
    let mut seen = vec![0; 3000];
    for (count, entry) in fs::read_dir(&scratch.0)?.enumerate() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number: usize = name.trim_start_matches("file-").parse().map_err(|_| "a name")?;
        seen[number] += 1;
        ensure(entry.file_type()?.is_file(), || format!("type of {name}"))?;
        // Files that were listed, and some of those before and after.
        if count % 3 == 0 {
            fs::remove_file(entry.path())?;
        }
    }
    ensure(seen.iter().all(|&count| count == 1), || "a file is not listed once".into())?;
    let left = fs::read_dir(&scratch.0)?.count();
    ensure(left == 2000, || format!("{left} files left"))
}

/// Modes, owners and times are kept; the mask of the process clears bits of new modes.
pub fn attributes(_: &[String]) -> ProbeResult {
    let scratch = Scratch::new("attributes")?;
    // SAFETY: no pointer; the probe has no other thread that creates files.
    let before = unsafe { libc::umask(0o027) };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(scratch.path("a"))?;
    fs::create_dir(scratch.path("d"))?;
    // SAFETY: as above.
    let mask = unsafe { libc::umask(before) };
    ensure(mask == 0o027, || format!("the mask was {mask:#o}"))?;
    let mode = |name: &str| fs::metadata(scratch.path(name)).map(|found| found.mode());
    ensure((mode("a")?, mode("d")?) == (0o100640, 0o40750), || format!("{:?}", (mode("a"), mode("d"))))?;
    file.set_permissions(fs::Permissions::from_mode(0o1755))?;
    fs::set_permissions(scratch.path("d"), fs::Permissions::from_mode(0o700))?;
    ensure((mode("a")?, mode("d")?) == (0o101755, 0o40700), || format!("{:?}", (mode("a"), mode("d"))))?;

    let time = |seconds, nanoseconds| libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let set = |times: [libc::timespec; 2]| {
        // SAFETY: two times.
        checked(unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) }.into())
    };
    set([time(-5, 999), time(1 << 33, 7)])?;
    set([time(0, libc::UTIME_OMIT), time(8, 9)])?;
    let found = file.metadata()?;
    let times = [(found.atime(), found.atime_nsec()), (found.mtime(), found.mtime_nsec())];
    ensure(times == [(-5, 999), (8, 9)], || format!("{times:?}"))?;
    expect_error("a time of more than a second", set([time(0, 0), time(0, 1_000_000_000)]), libc::EINVAL)?;
    (&file).write_all(b"x")?;
    let age = file.metadata()?.modified()?.elapsed().map_err(|_| "modified in the future")?;
    ensure(age.as_secs() < 60, || format!("modified {age:?} ago"))?;

    let access = |name: &str, mode: i32| {
        let path = c_path(&scratch.path(name));
        // SAFETY: the string lives.
        checked(unsafe { libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), mode, 0) })
    };
    access("a", libc::R_OK | libc::W_OK | libc::X_OK)?;
    expect_error("an unknown access", access("a", 8), libc::EINVAL)?;
    expect_error("a missing file", access("b", 0), libc::ENOENT)
}

/// The current directory, and paths relative to descriptors.
pub fn current_directory(_: &[String]) -> ProbeResult {
    let scratch = Scratch::new("current")?;
    let before = std::env::current_dir()?;
    fs::create_dir(scratch.path("d"))?;
    std::env::set_current_dir(scratch.path("d"))?;
    let result = in_directory(&scratch);
    std::env::set_current_dir(before)?;
    result
}

fn in_directory(scratch: &Scratch) -> ProbeResult {
    let found = std::env::current_dir()?;
    ensure(found == scratch.path("d"), || format!("{found:?}"))?;
    fs::write("here", "x")?;
    ensure(fs::read("../d/./here")? == b"x", || "a relative path".into())?;
    let directory = File::open(&scratch.0)?;
    // SAFETY: the string is a constant.
    let file = unsafe { libc::openat(directory.as_raw_fd(), c"d/here".as_ptr(), libc::O_RDONLY) };
    checked(file.into())?;
    // SAFETY: the descriptor is new, and owned by nothing else.
    drop(unsafe { OwnedFd::from_raw_fd(file) });
    fs::remove_file("here")?;
    fs::rename(scratch.path("d"), scratch.path("e"))?;
    ensure(std::env::current_dir()? == scratch.path("e"), || "renamed".into())?;
    fs::remove_dir(scratch.path("e"))?;
    expect_error("the path of a removed directory", std::env::current_dir(), libc::ENOENT)?;
    expect_error("a file in a removed directory", fs::write("new", ""), libc::ENOENT)?;
    // SAFETY: no pointer.
    checked(unsafe { libc::fchdir(directory.as_raw_fd()) }.into())?;
    ensure(std::env::current_dir()? == scratch.0, || "fchdir".into())
}

/// Files in memory without a name, and their seals.
pub fn memory_files(_: &[String]) -> ProbeResult {
    let create = |flags: u32| {
        // SAFETY: the name is a constant.
        let descriptor = unsafe { libc::memfd_create(c"probe".as_ptr(), flags) };
        // SAFETY: the descriptor is new, and owned by nothing else.
        checked(descriptor.into()).map(|_| File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    };
    let control = |file: &File, command: i32, argument: i32| {
        // SAFETY: no pointer.
        checked(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }.into())
    };
    let mut file = create(libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC)?;
    file.write_all(b"sealed")?;
    let metadata = file.metadata()?;
    ensure((metadata.len(), metadata.nlink()) == (6, 0), || format!("{metadata:?}"))?;
    ensure(control(&file, libc::F_GET_SEALS, 0)? == 0, || "seals of a new file".into())?;
    control(&file, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
    expect_error("a sealed file shrinks", file.set_len(5), libc::EPERM)?;
    expect_error("a sealed file grows", file.set_len(7), libc::EPERM)?;
    expect_error("a write beyond the end", file.write_all(b"!"), libc::EPERM)?;
    file.write_all_at(b"S", 0)?;
    control(&file, libc::F_ADD_SEALS, libc::F_SEAL_WRITE | libc::F_SEAL_SEAL)?;
    expect_error("a write", file.write_all_at(b"s", 0), libc::EPERM)?;
    expect_error("another seal", control(&file, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), libc::EPERM)?;
    ensure(control(&file, libc::F_GET_SEALS, 0)? == 15, || "all seals".into())?;
    let plain = create(0)?;
    ensure(control(&plain, libc::F_GET_SEALS, 0)? == 1, || "a file without sealing".into())?;
    expect_error("an unknown flag", create(1 << 20), libc::EINVAL)
}

/// A mapping of the first page of a file, removed when it is dropped.
struct MappedPage(*mut u8);

impl MappedPage {
    fn new(file: &File, protection: i32, flags: i32) -> io::Result<Self> {
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(at.cast())) }
    }

    fn get(&self, index: usize) -> u8 {
        // SAFETY: in the page, whose file has at least as many bytes.
        unsafe { self.0.add(index).read_volatile() }
    }

    fn set(&self, index: usize, value: u8) {
        // SAFETY: as above; the mapping is writable.
        unsafe { self.0.add(index).write_volatile(value) }
    }

    fn protect(&self, protection: i32) -> io::Result<i64> {
        // SAFETY: the mapping of `new`.
        checked(unsafe { libc::mprotect(self.0.cast(), 4096, protection) }.into())
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing uses any more.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

/// Shared mappings and the file are one content; private mappings are copies of the pages that they write.
pub fn mappings(_: &[String]) -> ProbeResult {
    const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
    let scratch = Scratch::new("mappings")?;
    let mut file = scratch.file("file")?;
    file.write_all(b"content")?;
    let shared = MappedPage::new(&file, READ_WRITE, libc::MAP_SHARED)?;
    let private = MappedPage::new(&file, READ_WRITE, libc::MAP_PRIVATE)?;
    let untouched = MappedPage::new(&file, READ_WRITE, libc::MAP_PRIVATE)?;
    private.set(1, b'P');
    shared.set(0, b'S');
    file.write_all_at(b"F", 2)?;
    let mut bytes = [0; 7];
    file.read_exact_at(&mut bytes, 0)?;
    ensure(&bytes == b"SoFtent", || format!("the file: {}", bytes.escape_ascii()))?;
    ensure(shared.get(2) == b'F' && shared.get(100) == 0, || "the shared mapping differs".into())?;
    ensure(private.get(0) == b'c' && private.get(1) == b'P', || "the private mapping is shared".into())?;
    ensure(untouched.get(0) == b'S', || "a private page differs before its first write".into())?;
    drop(shared);
    let read_only = File::open(scratch.path("file"))?;
    expect_error(
        "a writable mapping",
        MappedPage::new(&read_only, READ_WRITE, libc::MAP_SHARED).map(drop),
        libc::EACCES,
    )?;
    let view = MappedPage::new(&read_only, libc::PROT_READ, libc::MAP_SHARED)?;
    expect_error("a mapping made writable", view.protect(READ_WRITE), libc::EACCES)?;
    MappedPage::new(&read_only, READ_WRITE, libc::MAP_PRIVATE)?.set(0, b'x');
    ensure(view.get(0) == b'S', || "a private write reached the file".into())
}

/// A seal against writes excludes shared writable mappings.
pub fn sealed_mappings(_: &[String]) -> ProbeResult {
    const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the name is a constant; the descriptor is new, and owned by nothing else.
    let file = unsafe {
        let descriptor = libc::memfd_create(c"probe".as_ptr(), libc::MFD_ALLOW_SEALING);
        checked(descriptor.into())?;
        File::from(OwnedFd::from_raw_fd(descriptor))
    };
    file.set_len(4096)?;
    // SAFETY: no pointer.
    let seal =
        || checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) }.into());
    let shared = MappedPage::new(&file, READ_WRITE, libc::MAP_SHARED)?;
    shared.set(0, 7);
    expect_error("a seal of a mapped file", seal(), libc::EBUSY)?;
    // MappedPage without write access, but it could be enabled.
    shared.protect(libc::PROT_READ)?;
    expect_error("a seal of a mapped file", seal(), libc::EBUSY)?;
    drop(shared);
    let private = MappedPage::new(&file, READ_WRITE, libc::MAP_PRIVATE)?;
    seal()?;
    private.set(0, 8);
    expect_error("a mapping", MappedPage::new(&file, READ_WRITE, libc::MAP_SHARED).map(drop), libc::EPERM)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0)?;
    ensure(byte == [7], || format!("{byte:?}"))
}

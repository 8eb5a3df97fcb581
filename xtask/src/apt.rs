//! Debian packages, and the backports suite of this machine's mirror.
//!
//! The mirror is read from the machine's own sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::{capture, run, stdout_of};
use crate::error::{Error, Result};

const LISTS: &str = "/etc/apt/sources.list.d";
const LIST: &str = "/etc/apt/sources.list";

#[derive(Clone, Debug, Eq, PartialEq)]
struct AptSource {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// The text of `Signed-By`, over several lines if it holds a key itself.
    signed_by: Option<String>,
}

/// Whether this machine installs packages with apt.
pub fn is_here() -> bool {
    stdout_of("apt-get", &["--version"]).is_some()
}

/// Refreshes the package lists.
pub fn update() -> Result<()> {
    run(as_root("apt-get").args(["update", "-q"]))
}

/// Installs packages, from this suite if one is named.
pub fn install(packages: &[&str], suite: Option<&str>) -> Result<()> {
    let mut command = as_root("apt-get");
    command.args(["install", "-y", "-q", "--no-install-recommends"]);
    if let Some(suite) = suite {
        command.args(["-t", suite]);
    }
    run(command.args(packages))
}

/// The version that a plain install would give, such as `1:7.2+dfsg-7`.
pub fn candidate(package: &str) -> Option<String> {
    let policy = stdout_of("apt-cache", &["policy", package])?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:").map(str::trim))?;
    (line != "(none)").then(|| line.to_owned())
}

/// The architecture of a package.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Architecture {
    /// 64-bit Arm, independent of this machine.
    Arm64,
}

impl Architecture {
    fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
        }
    }
}

/// Copies the files that match `patterns` (`tar`'s wildcards) from a package into `directory`, without their
/// paths. Nothing is installed: the lists and the package are kept in a directory under `target/`, which
/// needs no root.
///
/// A package that only depends on the newest of a series (`linux-image-arm64`) is replaced by that one.
pub fn extract(package: &str, architecture: Architecture, patterns: &[&str], directory: &Path) -> Result<()> {
    if !is_here() {
        return Err(Error::Missing(format!("{package} is a Debian package, and there is no apt-get here")));
    }
    let private = PrivateApt::new(architecture)?;
    private.run("apt-get", &["update", "-q"])?;
    let real = private.real_name(package);
    let without_paths = ["--wildcards", "--transform=s,.*/,,"];
    private.download(&real, directory, &[&without_paths[..], patterns].concat())
}

/// Unpacks `packages` and everything that they depend on into `directory`. Nothing is installed, as for
/// [`extract`].
pub fn unpack_with_dependencies(
    packages: &[&str],
    architecture: Architecture,
    directory: &Path,
) -> Result<()> {
    if !is_here() {
        return Err(Error::Missing(format!(
            "{packages:?} are Debian packages, and there is no apt-get here"
        )));
    }
    let private = PrivateApt::new(architecture)?;
    private.run("apt-get", &["update", "-q"])?;
    for package in private.closure(packages)? {
        private.download(&package, directory, &["--exclude=./usr/share", "."])?;
    }
    Ok(())
}

/// apt with its state under `target/`, for packages of another architecture.
struct PrivateApt {
    root: PathBuf,
    architecture: Architecture,
}

impl PrivateApt {
    fn new(architecture: Architecture) -> Result<Self> {
        let root = crate::workspace::target().join("apt").join(architecture.name());
        for part in ["state/lists/partial", "cache/archives/partial", "packages"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        let status = root.join("status");
        fs::write(&status, "").map_err(Error::file("write", &status))?;
        Ok(Self { root, architecture })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |option: &str, part: &str| format!("{option}={}", self.root.join(part).display());
        let options = [
            format!("APT::Architecture={}", self.architecture.name()),
            format!("APT::Architectures={}", self.architecture.name()),
            place("Dir::State", "state"),
            place("Dir::State::status", "status"),
            place("Dir::Cache", "cache"),
            "Acquire::Languages=none".into(),
            // As root, apt would download as a user without write permission here.
            "APT::Sandbox::User=root".into(),
        ];
        command.current_dir(self.root.join("packages"));
        command.args(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        command
    }

    fn run(&self, program: &str, words: &[&str]) -> Result<()> {
        run(self.command(program).args(words))
    }

    /// Downloads a package, and extracts the files that `selection`, arguments of `tar`, names.
    fn download(&self, package: &str, directory: &Path, selection: &[&str]) -> Result<()> {
        println!("downloading {package}");
        self.run("apt-get", &["download", "-q", package])?;
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
        let archive = self.downloaded(package)?;
        unpack(&archive, selection, directory)?;
        fs::remove_file(&archive).map_err(Error::file("remove", &archive))
    }

    /// The packages that an installation of `packages` on an empty system would install.
    fn closure(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut command = self.command("apt-get");
        command.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
        let output = capture(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let installed = text.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        let names: Vec<_> = installed.map(str::to_owned).collect();
        match packages.iter().find(|package| !names.iter().any(|name| name == *package)) {
            Some(package) => Err(Error::Missing(format!("apt-get finds no package {package}"))),
            None => Ok(names),
        }
    }

    /// The package that `package` depends on, if it is a metapackage of a series.
    fn real_name(&self, package: &str) -> String {
        let output = self.command("apt-cache").args(["depends", "--important", package]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        newest(package, &text.unwrap_or_default()).unwrap_or_else(|| package.to_owned())
    }

    fn downloaded(&self, package: &str) -> Result<PathBuf> {
        let packages = self.root.join("packages");
        let files = fs::read_dir(&packages).map_err(Error::file("read", &packages))?;
        let start = format!("{package}_");
        let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
        let is_it =
            |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start));
        paths.find(is_it).ok_or_else(|| Error::Missing(format!("apt-get downloaded no {package}")))
    }
}

/// Finds the dependency with a version in its name in the output of `apt-cache depends`.
fn newest(package: &str, depends: &str) -> Option<String> {
    let (series, architecture) = package.rsplit_once('-')?;
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let mut real = names.filter(|name| name.starts_with(series) && name.contains(architecture));
    real.next().filter(|name| *name != package).map(str::to_owned)
}

/// `dpkg-deb --fsys-tarfile ARCHIVE | tar -x`, only of the files that `selection`, arguments of `tar`, names.
fn unpack(archive: &Path, selection: &[&str], directory: &Path) -> Result<()> {
    let mut packed = Command::new("dpkg-deb");
    packed.arg("--fsys-tarfile").arg(archive).stdout(Stdio::piped());
    let start = |program: &str| {
        let program = program.to_owned();
        move |cause| Error::Start { program, cause }
    };
    let mut packed = packed.spawn().map_err(start("dpkg-deb"))?;
    let output = packed.stdout.take().expect("the output is piped");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--directory"]).arg(directory);
    let result = run(tar.args(selection).stdin(output));
    // It ends when tar closes the pipe; tar reports the error.
    let _ = packed.wait();
    result
}

/// Adds the backports suite of this Debian release to apt's sources, and returns its name.
///
/// # Errors
/// `Missing` if this is not a Debian release, or its sources do not name the release's mirror.
pub fn enable_backports() -> Result<String> {
    let codename = codename(&fs::read_to_string("/etc/os-release").unwrap_or_default())
        .ok_or_else(|| Error::Missing("this is not a Debian release, so it has no backports suite".into()))?;
    let suite = format!("{codename}-backports");
    let sources = sources()?;
    if !sources.iter().any(|source| source.suites.contains(&suite)) {
        let stanza = backports(&sources, &codename, &suite).ok_or_else(|| {
            Error::Missing(format!(
                "no apt source offers {codename} main, so the mirror of {suite} is unknown"
            ))
        })?;
        let path = Path::new(LISTS).join(format!("{suite}.sources"));
        println!("adding {}: the {suite} suite of the mirror in use", path.display());
        write_as_root(&path, &stanza)?;
    }
    update()?;
    Ok(suite)
}

/// The stanza for the suite: same mirror and keys as the release itself.
fn backports(sources: &[AptSource], codename: &str, suite: &str) -> Option<String> {
    let has = |list: &[String], word: &str| list.iter().any(|item| item == word);
    let release =
        sources.iter().find(|source| has(&source.suites, codename) && has(&source.components, "main"))?;
    let mut stanza = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", release.uri);
    if let Some(keys) = &release.signed_by {
        stanza += &format!("Signed-By: {keys}\n");
    }
    Some(stanza)
}

fn codename(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|text| text.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

fn sources() -> Result<Vec<AptSource>> {
    let mut found = Vec::new();
    let mut files = vec![PathBuf::from(LIST)];
    let directory = fs::read_dir(LISTS).map_err(Error::file("read", Path::new(LISTS)))?;
    files.extend(directory.filter_map(|entry| Some(entry.ok()?.path())));
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => found.extend(text.replace("\r\n", "\n").split("\n\n").filter_map(stanza)),
            Some("list") => found.extend(text.lines().filter_map(one_line)),
            _ => {}
        }
    }
    Ok(found)
}

/// One stanza of a `.sources` file (deb822), if it is in use and offers binary packages.
fn stanza(text: &str) -> Option<AptSource> {
    let field = |name: &str| field(text, name);
    let list = |name: &str| -> Option<Vec<String>> {
        Some(field(name)?.split_whitespace().map(str::to_owned).collect())
    };
    let switched_off = field("Enabled").is_some_and(|value| value.trim().eq_ignore_ascii_case("no"));
    if switched_off || !list("Types")?.iter().any(|kind| kind == "deb") {
        return None;
    }
    Some(AptSource {
        uri: list("URIs")?.into_iter().next()?,
        suites: list("Suites")?,
        components: list("Components").unwrap_or_default(),
        signed_by: field("Signed-By"),
    })
}

/// A field's value with its continuation lines; comments are left out.
fn field(stanza: &str, name: &str) -> Option<String> {
    let mut lines = stanza.lines().filter(|line| !line.starts_with('#'));
    let first = lines.find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })?;
    let more = lines.take_while(|line| line.starts_with([' ', '\t']));
    Some(more.fold(first, |value, line| value + "\n" + line))
}

/// One line of a `.list` file: `deb [option=value ...] URI SUITE COMPONENT...`.
fn one_line(line: &str) -> Option<AptSource> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(AptSource {
        uri: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by=").map(str::to_owned)),
    })
}

fn as_root(program: &str) -> Command {
    let is_root = stdout_of("id", &["-u"]).is_some_and(|id| id.trim() == "0");
    let mut command = if is_root { Command::new(program) } else { Command::new("sudo") };
    if !is_root {
        command.arg(program);
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn write_as_root(path: &Path, text: &str) -> Result<()> {
    let draft = crate::workspace::target().join("apt.sources");
    fs::write(&draft, text).map_err(Error::file("write", &draft))?;
    run(as_root("install").args(["-m", "644"]).arg(&draft).arg(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "# a comment\nTypes: deb deb-src\nURIs: http://mirror.test/debian\n\
                          Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/d.gpg";

    fn expected(signed_by: Option<&str>) -> Option<String> {
        let keys = signed_by.map(|keys| format!("Signed-By: {keys}\n")).unwrap_or_default();
        Some(format!(
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm-backports\nComponents: main\n{keys}"
        ))
    }

    fn derived(sources: &[AptSource]) -> Option<String> {
        backports(sources, "bookworm", "bookworm-backports")
    }

    #[test]
    fn a_metapackage_is_replaced_by_its_newest_dependency() {
        let depends = "linux-image-arm64\n  Depends: linux-image-6.1.0-9-arm64\n";
        assert_eq!(newest("linux-image-arm64", depends).as_deref(), Some("linux-image-6.1.0-9-arm64"));
        assert_eq!(newest("u-boot-qemu", "u-boot-qemu\n  Depends: libc6\n"), None);
    }

    #[test]
    fn backports_use_the_mirror_of_the_release() {
        let security =
            "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main";
        let sources: Vec<_> = [security, DEB822].into_iter().filter_map(stanza).collect();
        assert_eq!(derived(&sources), expected(Some("/usr/share/keyrings/d.gpg")));
    }

    #[test]
    fn one_line_sources_are_parsed() {
        let table = [
            ("deb http://mirror.test/debian bookworm main contrib # home", None),
            ("deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main", Some("/k.gpg")),
        ];
        for (line, keys) in table {
            assert_eq!(derived(&[one_line(line).unwrap()]), expected(keys), "{line}");
        }
        for line in
            ["", "# deb http://mirror.test/debian bookworm main", "deb-src http://m.test/d bookworm main"]
        {
            assert_eq!(one_line(line), None, "{line}");
        }
    }

    #[test]
    fn disabled_and_source_only_stanzas_are_ignored() {
        assert_eq!(stanza(&format!("{DEB822}\nEnabled: no")), None);
        assert_eq!(stanza(&DEB822.replace("deb deb-src", "deb-src")), None);
        assert_eq!(stanza("# nothing"), None);
    }

    #[test]
    fn an_inline_key_is_copied() {
        let keyed = DEB822.replace("/usr/share/keyrings/d.gpg", "\n -----BEGIN\n .\n abc\n -----END");
        let stanza = stanza(&keyed).unwrap();
        assert_eq!(stanza.signed_by.as_deref(), Some("\n -----BEGIN\n .\n abc\n -----END"));
    }

    #[test]
    fn backports_require_a_source_of_the_release() {
        assert_eq!(derived(&[]), None);
        assert_eq!(derived(&[one_line("deb http://mirror.test/debian trixie main").unwrap()]), None);
    }

    #[test]
    fn only_debian_has_a_codename() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(codename("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(codename(""), None);
    }
}

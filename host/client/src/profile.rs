//! The profile: the server, the user and the token, in a file that only its owner can read.

use lifeboat_api::text::of_system;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The maximum length of a profile, in bytes.
pub const PROFILE_BYTES_MAX: u64 = 64 * 1024;

/// The result of a log-in, as it is stored.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The URL of the server.
    pub url: String,
    /// The user who logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The token of the user, or `None` after a log-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A PEM file of additional certificate authorities to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

/// The reason why a profile cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The environment does not define the path of the profile.
    #[error("the profile has no location: none of LIFEBOAT_PROFILE, XDG_CONFIG_HOME and HOME is set; set one of them")]
    NoPlace,
    /// The path names a directory, a device or a pipe.
    #[error(
        "profile '{file}' is {found}, not a file; name a new file, or one that lifeboat login wrote, with \
         LIFEBOAT_PROFILE"
    )]
    NotAFile {
        /// The path of the profile.
        file: String,
        /// The kind of the file.
        found: &'static str,
    },
    /// Others can read or change the file, and may therefore have the token.
    #[error(
        "others can read or change profile '{file}' (mode {mode:03o}): run chmod 600 '{file}', and lifeboat logout if \
         others may have read it"
    )]
    Exposed {
        /// The path of the profile.
        file: String,
        /// The permission bits of the file.
        mode: u32,
    },
    /// The file has not the format of a profile.
    #[error("profile '{file}' {reason}; remove it and run lifeboat login")]
    Invalid {
        /// The path of the profile.
        file: String,
        /// The description of the error.
        reason: String,
    },
    /// The operating system reports an error.
    #[error(
        "profile '{file}' cannot be {verb}: {}; fix that, or name another file with LIFEBOAT_PROFILE",
        of_system(error)
    )]
    Io {
        /// The path of the profile.
        file: String,
        /// The operation that failed.
        verb: &'static str,
        /// The error of the operating system.
        error: io::Error,
    },
}

impl Profile {
    /// Returns the path of the profile: `$LIFEBOAT_PROFILE`, or `lifeboat/profile.toml` in `$XDG_CONFIG_HOME` or
    /// `~/.config`.
    ///
    /// # Errors
    /// [`ProfileError::NoPlace`] if none of the variables is set.
    pub fn place(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, ProfileError> {
        let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = set("LIFEBOAT_PROFILE") {
            return Ok(file);
        }
        // The XDG specification requires that relative paths are ignored.
        let folder = set("XDG_CONFIG_HOME").filter(|folder| folder.is_absolute());
        let folder = folder.or_else(|| set("HOME").map(|home| home.join(".config"))).ok_or(ProfileError::NoPlace)?;
        Ok(folder.join("lifeboat").join("profile.toml"))
    }

    /// Reads a profile, or returns `None` if there is no file.
    ///
    /// # Errors
    /// [`ProfileError`]. A profile that others can read or change is rejected.
    pub fn read(file: &Path) -> Result<Option<Self>, ProfileError> {
        let failed = |error| ProfileError::Io { file: shown(file), verb: "read", error };
        let mut opened = match File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        // The metadata is that of the opened file, whatever file has that path now.
        let metadata = opened.metadata().map_err(failed)?;
        check_is_file(file, &metadata)?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(ProfileError::Exposed { file: shown(file), mode });
        }
        let mut bytes = Vec::new();
        (&mut opened).take(PROFILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        let invalid = |reason: String| ProfileError::Invalid { file: shown(file), reason };
        if bytes.len() as u64 > PROFILE_BYTES_MAX {
            return Err(invalid(format!("is longer than {PROFILE_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| invalid("is not UTF-8 text".into()))?;
        // The parser's own message may quote the line, and with it a token.
        toml::from_str(&text).map(Some).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            invalid(format!("is not valid in line {line}"))
        })
    }

    /// Writes the profile to a temporary file and renames it. Only its owner can read the file, from its creation on.
    ///
    /// # Errors
    /// [`ProfileError::NotAFile`], [`ProfileError::Io`].
    pub fn write(&self, file: &Path) -> Result<(), ProfileError> {
        let failed = |error| ProfileError::Io { file: shown(file), verb: "written", error };
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        if let Ok(metadata) = fs::metadata(file) {
            check_is_file(file, &metadata)?;
        }
        let mut aside = file.as_os_str().to_owned();
        aside.push(format!(".{}.new", std::process::id()));
        let aside = PathBuf::from(aside);
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).and_then(|mut opened| {
                let written = opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all());
                written.and_then(|()| fs::rename(&aside, file)).inspect_err(|_| drop(fs::remove_file(&aside)))
            });
        written.map_err(failed)
    }
}

fn check_is_file(file: &Path, metadata: &Metadata) -> Result<(), ProfileError> {
    if metadata.is_file() {
        return Ok(());
    }
    let found = if metadata.is_dir() { "a directory" } else { "a device or a pipe" };
    Err(ProfileError::NotAFile { file: shown(file), found })
}

fn shown(file: &Path) -> String {
    file.display().to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn profile() -> Profile {
        Profile {
            url: "https://a".into(),
            user: Some("ada".into()),
            token: Some("lifeboat_secret".into()),
            ca: Some("/ca.pem".into()),
        }
    }

    #[test]
    fn a_profile_is_readable_by_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("new/deep/profile.toml");
        profile().write(&file).expect("writable");
        assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().expect("a folder")).expect("there").mode() & 0o777, 0o700);
    }

    #[test]
    fn a_profile_is_read_as_it_was_last_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("new/deep/profile.toml");
        assert_eq!(Profile::read(&file).expect("readable"), None);
        profile().write(&file).expect("writable");
        assert_eq!(Profile::read(&file).expect("readable"), Some(profile()));
        let without = Profile { token: None, ..profile() };
        without.write(&file).expect("writable again");
        assert_eq!(Profile::read(&file).expect("readable"), Some(without));
        assert_eq!(
            fs::read_dir(file.parent().expect("a folder")).expect("readable").count(),
            1,
            "nothing is left aside"
        );
    }

    #[test]
    fn a_profile_does_not_print_its_token() {
        assert!(!format!("{:?}", profile()).contains("secret"));
    }

    #[test]
    fn a_profile_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("profile.toml");
        profile().write(&file).expect("writable");
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
            let error = Profile::read(&file).expect_err("exposed").to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:o}")), "{error}");
        }
        // Writing it again restores its mode.
        profile().write(&file).expect("writable");
        assert!(Profile::read(&file).expect("readable").is_some());
    }

    #[test]
    fn the_remedy_for_a_profile_that_is_no_file_is_another_path() {
        let folder = tempfile::tempdir().expect("a folder");
        for (place, words) in
            [(folder.path(), "' is a directory, "), (Path::new("/dev/null"), "' is a device or a pipe, ")]
        {
            let read = Profile::read(place).expect_err("no file").to_string();
            let written = profile().write(place).expect_err("no file").to_string();
            for error in [read, written] {
                assert!(error.contains(words) && error.contains("; name a new file, "), "{error}");
                assert!(!error.contains("chmod"), "{error}");
            }
        }
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0, "nothing is left aside");
    }

    #[test]
    fn a_damaged_profile_is_reported_without_its_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("profile.toml");
        for text in [
            "url = 1\ntoken = \"lifeboat_secret\"",
            "url = \"a\"\ntoken = lifeboat_secret",
            "url = \"a\"\nlifeboat_secret = 1",
        ] {
            let mut opened =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file).expect("ours");
            opened.write_all(text.as_bytes()).expect("writable");
            let error = Profile::read(&file).expect_err("damaged").to_string();
            assert!(error.contains("in line") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_profile_is_where_the_environment_says() {
        let place = |pairs: &[(&str, &str)]| {
            Profile::place(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())).ok()
        };
        let all = [("LIFEBOAT_PROFILE", "/p"), ("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(place(&all), Some("/p".into()));
        assert_eq!(place(&all[1..]), Some("/x/lifeboat/profile.toml".into()));
        assert_eq!(place(&all[2..]), Some("/h/.config/lifeboat/profile.toml".into()));
        assert_eq!(
            place(&[("XDG_CONFIG_HOME", "relative"), ("HOME", "/h")]),
            Some("/h/.config/lifeboat/profile.toml".into())
        );
        assert_eq!(place(&[("LIFEBOAT_PROFILE", "")]), None);
    }
}

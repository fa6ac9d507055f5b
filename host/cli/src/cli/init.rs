//! `lifeboat init`: creates a folder from which a server can be started.
//!
//! The password is read and checked before anything is written. The other steps have a fixed order: the folder, the
//! data directory, its first admin, and last the configuration file. A missing configuration file shows that an earlier
//! `init` did not finish. So after a crash between any two steps, another `init` completes the rest. It repeats no
//! completed step and overwrites no existing file.

use super::data::{self, DATA_BYTES_MIN};
use super::remote::Passwords;
use super::{UsageError, UsageErrors, exit, random_salt, with_need};
use anyhow::Context;
use clap::Args;
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::name::Name;
use lifeboat_host::auth::{AccountError, Accounts, check_password};
use lifeboat_host::catalog::{CATALOG_FILE, CatalogError};
use lifeboat_server::config::{CONFIG_FILE, Config, ConfigErrors, DATA, DATA_VARIABLE, Overrides, TEMPLATE};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How often the two entries of a password may differ before `init` ends with an error.
const PASSWORD_TRIES: u32 = 3;

const AFTER_HELP: &str = "\
The command writes DIR/lifeboat.toml, which contains every key with its default, and DIR/data, which contains the first
admin. It overwrites nothing. After a crash, run it again: it continues where it stopped. If DIR/lifeboat.toml exists
and its data directory is missing or has no users, the command creates the directory and the first admin. The variable
LIFEBOAT_DATA replaces DIR/data, as it does for lifeboat serve.";

/// Arguments of `init`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Init {
    /// The name of the first admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: Name,
    /// Read the admin's password from standard input, up to the end of the line, instead of asking for it
    #[arg(long)]
    admin_password_stdin: bool,
    /// The folder; it is created if it is missing
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
}

impl Init {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let config = self.directory.join(CONFIG_FILE);
        let has_config = fs::symlink_metadata(&config).is_ok();
        let of_config =
            |ConfigErrors(errors): ConfigErrors| UsageErrors(errors.iter().map(ToString::to_string).collect());
        let overrides = Overrides::from_environment(|name| std::env::var_os(name)).map_err(ConfigErrors::from);
        let overrides = overrides.map_err(of_config)?;
        let serve = serve(&config, overrides.data.as_deref());
        // The directory that a configuration names may be gone or moved.
        let data = if has_config {
            let read = Config::read(&config, &overrides).map_err(of_config)?;
            if has_users(&read.data) {
                return Err(UsageError(format!(
                    "{} already exists, and is not overwritten; start the server with {serve}, or name another folder",
                    shown(&config),
                ))
                .into());
            }
            read.data
        } else {
            overrides.data.unwrap_or_else(|| self.directory.join(DATA))
        };
        if fs::symlink_metadata(self.directory.join(CATALOG_FILE)).is_ok() {
            let shown = shown(&self.directory);
            return Err(UsageError(format!(
                "{shown} is itself a data directory, as lifeboat run creates: move it to FOLDER/{DATA}, and run \
                 lifeboat init FOLDER to add an admin and a configuration; its services stay"
            ))
            .into());
        }
        // A wrong password leaves nothing behind. An existing data directory may have an admin, and then needs no
        // password.
        let is_new = fs::symlink_metadata(data.join(CATALOG_FILE)).is_err();
        let password = is_new.then(|| self.password()).transpose()?;
        fs::create_dir_all(&self.directory).map_err(|error| {
            UsageError(format!("{}: cannot be created: {error}; name another folder", shown(&self.directory)))
        })?;
        let locked = data::open(&data, true)?;
        let accounts = data::accounts(locked)?;
        if let Some(admin) = accounts.list().into_iter().find(|account| account.is_admin) {
            // The admin is left by an interrupted `init`, or by a server whose configuration file is gone.
            let _ = writeln!(
                io::stderr(),
                "the data directory already has admin '{}', with its earlier password; it was not changed",
                admin.user
            );
        } else {
            self.add_admin(&accounts, &password.map_or_else(|| self.password(), Ok)?)?;
        }
        drop(accounts);
        if has_config {
            let (data, config) = (shown(&data), shown(&config));
            let _ = writeln!(io::stderr(), "{data} has an admin now, {config} is unchanged; now start the server:");
        } else {
            write_config(&config).with_context(|| format!("cannot write {}", shown(&config)))?;
            let _ = writeln!(io::stderr(), "wrote {}; now start the server:", shown(&config));
        }
        let _ = writeln!(io::stdout(), "{serve}");
        Ok(ExitCode::from(exit::OK))
    }

    /// Reads the admin's password and checks that it is allowed.
    fn password(&self) -> anyhow::Result<String> {
        let password = if self.admin_password_stdin {
            Passwords { from_stdin: true }.ask("Password of the admin")?
        } else {
            self.ask_password()?
        };
        check_password(&password).map_err(|error| UsageError(error.to_string()))?;
        Ok(password)
    }

    fn add_admin(&self, accounts: &Accounts, password: &str) -> anyhow::Result<()> {
        match accounts.add_user(&self.admin, password, true, SystemClock.now(), &random_salt()?) {
            Ok(()) => Ok(()),
            Err(error @ (AccountError::Password(_) | AccountError::Exists { .. })) => {
                Err(UsageError(error.to_string()).into())
            }
            // A new directory has nothing that could be removed to make room.
            Err(AccountError::Catalog(CatalogError::NoRoom { source, .. })) => {
                let error = with_need(source, "a data directory", DATA_BYTES_MIN);
                Err(error).context("cannot add the first admin")
            }
            Err(error) => Err(error).context("cannot add the first admin"),
        }
    }

    /// Asks twice for the password, without showing what is typed.
    fn ask_password(&self) -> anyhow::Result<String> {
        if !io::stdin().is_terminal() {
            return Err(UsageError(
                "there is no terminal to ask for the admin's password; use --admin-password-stdin, and write the \
                 password to standard input"
                    .into(),
            )
            .into());
        }
        for _ in 0..PASSWORD_TRIES {
            let ask = |prompt: String| rpassword::prompt_password(prompt).context("cannot ask for the password");
            let password = ask(format!("Password of '{}': ", self.admin))?;
            if password == ask("Repeat the password: ".into())? {
                return Ok(password);
            }
            let _ = writeln!(io::stderr(), "the two passwords differ");
        }
        Err(UsageError(format!("the passwords differed {PASSWORD_TRIES} times; start over")).into())
    }
}

/// Returns whether a user could log in with a data directory. One that is in use or cannot be read counts as having
/// users.
fn has_users(data: &Path) -> bool {
    if fs::symlink_metadata(data.join(CATALOG_FILE)).is_err() {
        return false;
    }
    let users = data::open(data, false).and_then(|locked| Ok(locked.catalog().users()?.len()));
    !users.is_ok_and(|users| users == 0)
}

/// The most permissive mode of a new configuration.
const CONFIG_MODE: u32 = 0o644;

/// Writes the configuration to a temporary file first, so that a crash leaves a whole file or none.
fn write_config(path: &Path) -> io::Result<()> {
    let aside = path.with_extension("toml.tmp");
    // The umask may allow others to write, but the file decides who may reach what, so its mode is limited.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(CONFIG_MODE);
    let mut file = options.open(&aside)?;
    file.write_all(TEMPLATE.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Returns the command that starts the server. `data` is the data directory by the environment.
fn serve(config: &Path, data: Option<&Path>) -> String {
    let variable =
        data.map_or(String::new(), |data| format!("{DATA_VARIABLE}={} ", quoted(&data.display().to_string())));
    format!("{variable}lifeboat serve --config {}", quoted(&config.display().to_string()))
}

fn shown(path: &Path) -> String {
    format!("'{}'", path.display().to_string().escape_debug())
}

/// Quotes a text so that a shell reads it as one word.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

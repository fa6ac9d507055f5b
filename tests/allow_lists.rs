//! Which addresses an operator lets a service call, as the commands set and show it. No call is made.

use crate::serving::{PASSWORD, Serving, set_up};
use crate::util::{Lifeboat, lifeboat, prebuilt};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A folder with a server's configuration, its data directory and a client's profile.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        set_up(folder.path());
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("lifeboat.toml"), text).expect("the file can be written");
    }

    /// Starts the server, and logs the admin in.
    pub(crate) fn serve(&self) -> Serving {
        let server = Serving::start(self.0.path());
        server.line("lifeboat: serving ");
        let url = format!("http://{}", server.address);
        let login = self.client(&["login", "--user", "admin", "--password-stdin", "--server", &url]);
        login.input(format!("{PASSWORD}\n")).output().exits(0);
        server
    }

    pub(crate) fn client(&self, arguments: &[&str]) -> Lifeboat {
        lifeboat(arguments.iter().copied()).env("LIFEBOAT_PROFILE", self.path("profile.toml"))
    }

    fn data(&self, command: &str) -> Lifeboat {
        lifeboat(["data", command, "--data"]).arg(self.path("data"))
    }

    /// Returns the network of a service, as the server shows it.
    fn shown(&self, service: &str) -> Value {
        network(self.client(&["services", "--json"]).output().exits(0), service)
    }

    /// Returns the network of a service, as the data directory has it.
    fn stored(&self, service: &str) -> Value {
        network(self.data("services").arg("--json").output().exits(0), service)
    }
}

fn network(services: &str, name: &str) -> Value {
    let services: Value = serde_json::from_str(services).expect("JSON");
    let mut services = services["services"].as_array().expect("a list").iter();
    services.find(|service| service["name"] == name).expect("it is there")["network"].clone()
}

fn table(name: &str, workload: &Path, keys: &str) -> String {
    format!("[[service]]\nname = '{name}'\nworkload = '{}'\n{keys}\n", workload.display())
}

fn allowed(target: &str, private: bool) -> Value {
    json!({"target": target, "private": private})
}

fn nobody() -> Value {
    json!({"allow": [], "retry": "ask"})
}

#[test]
fn an_allow_list_is_that_of_the_configuration_at_every_start() {
    let folder = Folder::new();
    let keys = "allow_net = ['HTTPS://API.example.org:443', { target = 'http://stock:8080', private = true }]\n\
                retry = 'idempotent'\nsecret.TOKEN.file = 'token.txt'";
    std::fs::write(folder.path("token.txt"), "top secret\n").expect("a file can be written");
    folder.configure(&table("shop", &prebuilt("counter"), keys));
    let server = folder.serve();
    let allow = json!([allowed("https://api.example.org", false), allowed("http://stock:8080", true)]);
    let of_file = json!({"allow": allow, "retry": "idempotent"});
    assert_eq!(folder.shown("shop"), of_file);
    folder.client(&["tx", "shop", "{\"add\":1}"]).output().exits(0);
    assert!(!server.has_said("from now on"), "it was created so");
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(folder.stored("shop"), of_file);
    for file in std::fs::read_dir(folder.path("data")).expect("a directory") {
        let file = file.expect("an entry").path();
        let bytes = if file.is_file() { std::fs::read(file).expect("readable") } else { Vec::new() };
        assert!(!bytes.windows(10).any(|part| part == b"top secret"));
    }

    // The same file changes nothing.
    let server = folder.serve();
    assert_eq!(folder.shown("shop"), of_file);
    assert_eq!(server.terminate(), Some(0));

    folder.configure(&table("shop", &prebuilt("counter"), "allow_net = ['https://*.example.org']"));
    let server = folder.serve();
    server.line("lifeboat: service 'shop' of the configuration calls https://*.example.org from now on, retry ask");
    assert_eq!(folder.shown("shop"), json!({"allow": [allowed("https://*.example.org", false)], "retry": "ask"}));
    // A service that was stopped when its list changed starts with the new one.
    folder.client(&["stop", "shop"]).output().exits(0);
    assert_eq!(server.terminate(), Some(0));

    folder.configure(&table("shop", &prebuilt("counter"), ""));
    let server = folder.serve();
    server.line("lifeboat: service 'shop' of the configuration calls nobody from now on");
    folder.client(&["start", "shop"]).output().exits(0);
    assert_eq!(folder.shown("shop"), nobody());
    assert_eq!(folder.client(&["tx", "shop", "{\"add\":1}"]).output().exits(0), "2\n");
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(folder.stored("shop"), nobody());
}

#[test]
fn a_deployed_service_keeps_its_allow_list_unless_the_configuration_has_another() {
    let folder = Folder::new();
    let server = folder.serve();
    let deploy = |service: &str, options: &[&str]| {
        folder.client(&["deploy", service]).arg(prebuilt("counter")).args(options).output()
    };
    let options = ["--allow-net", "https://api.example.org", "--allow-net", "http://db:5432,private"];
    deploy("shop", &[&options[..], &["--retry", "idempotent"]].concat()).exits(0);
    deploy("quiet", &[]).exits(0);
    let allow = json!([allowed("https://api.example.org", false), allowed("http://db:5432", true)]);
    let as_deployed = json!({"allow": allow, "retry": "idempotent"});
    assert_eq!((folder.shown("shop"), folder.shown("quiet")), (as_deployed.clone(), nobody()));
    let wrong = [
        (&["--allow-net", "db"][..], "--allow-net: cannot use 'db' as an address to call: it has no scheme"),
        (&["--allow-net", "http://db,public"], "something other than 'private' follows the comma; write ',private'"),
        (&["--retry", "always"], "--retry: 'always' is not a mode of retries: write 'ask', 'never' or 'idempotent'"),
    ];
    for (options, words) in wrong {
        deploy("other", options).exits_with_one_line(2, &[words]);
    }
    let targets = vec!["--allow-net=https://api.example.org"; 65];
    deploy("other", &targets).exits_with_one_line(2, &["the allow-list has 65 entries; write at most 64"]);
    assert_eq!(server.terminate(), Some(0));

    let server = folder.serve();
    assert_eq!((folder.shown("shop"), folder.shown("quiet")), (as_deployed, nobody()));
    assert_eq!(server.terminate(), Some(0));

    // The operator withdraws what the admin allowed. The file need not have a workload that exists.
    folder.configure(&table("shop", Path::new("none.wasm"), ""));
    let server = folder.serve();
    server.line("lifeboat: service 'shop' of the configuration calls nobody from now on");
    assert_eq!(folder.shown("shop"), nobody());
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_copy_calls_nobody_unless_its_operator_allows_it() {
    let folder = Folder::new();
    let run = |options: &[&str]| {
        let run = lifeboat(["run", "--service", "shop", "--data"]).arg(folder.path("data")).args(options);
        run.input("{\"add\":1}\n").output()
    };
    let workload = prebuilt("counter").display().to_string();
    let options = ["--allow-net", "https://api.example.org", "--retry", "idempotent"];
    run(&[&options[..], &[&workload]].concat()).exits(0);
    let of_run = json!({"allow": [allowed("https://api.example.org", false)], "retry": "idempotent"});
    assert_eq!(folder.stored("shop"), of_run);
    // It continues as it was created.
    assert_eq!(run(&[]).exits(0), "2\n");
    assert_eq!(run(&options).exits(0), "3\n");
    for other in [["--allow-net", "https://example.org"], ["--retry", "never"]] {
        let words = "has --allow-net https://api.example.org --retry idempotent, and `run` does not change that";
        run(&other).exits_with_one_line(2, &["service 'shop'", words]);
    }
    assert_eq!(folder.stored("shop"), of_run);

    let file = folder.path("shop.snapshot");
    folder.data("snapshot").args(["shop", "--out"]).arg(&file).output().exits(0);
    let bytes = std::fs::read(&file).expect("written");
    assert!(!bytes.windows(11).any(|part| part == b"example.org"), "the file does not name what it called");
    let restore =
        |name: &str, options: &[&str]| folder.data("restore").args(["--name", name]).args(options).arg(&file).output();
    restore("copy", &[]).exits(0);
    restore("caller", &["--allow-net", "http://127.0.0.1:8080", "--retry", "idempotent"]).exits(0);
    restore("wrong", &["--allow-net", "127.0.0.1"]).exits_with_one_line(2, &["--allow-net: cannot use '127.0.0.1'"]);
    assert_eq!((folder.stored("copy"), folder.stored("shop")), (nobody(), of_run));
    let of_restore = json!({"allow": [allowed("http://127.0.0.1:8080", false)], "retry": "idempotent"});
    assert_eq!(folder.stored("caller"), of_restore);
}

#[test]
fn a_run_in_memory_takes_an_allow_list() {
    let run = lifeboat(["run", "--allow-net", "http://127.0.0.1:8080", "--retry", "idempotent"]);
    assert_eq!(run.arg(prebuilt("counter")).input("{\"add\":1}\n").output().exits(0), "1\n");
}

#[test]
fn a_secret_that_cannot_be_read_is_refused_with_its_place() {
    let folder = Folder::new();
    let both_refuse = |keys: &str, line: usize, column: usize, words: &str| {
        folder.configure(&table("shop", &prebuilt("counter"), keys));
        let file = folder.path("lifeboat.toml");
        let check = lifeboat(["config", "check"]).arg(&file).output();
        check.exits(2);
        // The note about the data directory is on another line.
        let refused = check.stderr.lines().next().unwrap_or_default();
        let place = format!("lifeboat: {}:{line}:{column}: service 'shop': ", file.display());
        assert!(refused.starts_with(&place) && refused.contains(words), "{refused}");
        let serve = lifeboat(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&file).output();
        serve.exits_with_one_line(2, &["service 'shop': ", words]);
    };
    std::fs::write(folder.path("empty"), "").expect("a file can be written");
    both_refuse("secret.T.file = 'none'", 4, 17, "none' cannot be used: it cannot be read: No such file or directory;");
    both_refuse("secret.T.file = 'empty'", 4, 17, "empty' cannot be used: it is empty; write the secret into it");
    let unset = "the variable 'LIFEBOAT_TEST_UNSET' cannot be used: it is not set; set it where";
    both_refuse("secret.T = { env = 'LIFEBOAT_TEST_UNSET' }", 4, 20, unset);
    both_refuse("roots = 'empty'", 4, 9, "empty' cannot be used: there is no certificate to read: ");

    folder.configure(&table("shop", &prebuilt("counter"), "secret.T.env = 'LIFEBOAT_TEST_SET'\nallow_net = []"));
    let check = lifeboat(["config", "check", "--json"]).arg(folder.path("lifeboat.toml"));
    let checked = check.env("LIFEBOAT_TEST_SET", "top secret").output();
    let json: Value = serde_json::from_str(checked.exits(0)).expect("JSON");
    assert_eq!(json["service"][0]["secret"], json!({"T": {"env": "LIFEBOAT_TEST_SET"}}));
    assert!(!checked.exits(0).contains("top secret"));
}

//! `client-agent serve` with curl: CARs whole, in ranges, resumed, side by side, with a token and over TLS.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bson::{Document, doc};
use harness::{child_guard, database, eventually, test_env};
use serde_json::Value;

use crate::pack::{Pack, touch};

/// A running `client-agent serve`.
struct Served {
    child: std::process::Child,
    line: Value,
}

impl Served {
    fn start(pack: &Pack, more: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = test_env::client_agent_command().unwrap();
        command.args(["serve", "--json", "--serve-listen", "127.0.0.1:0"]);
        command.args(["--mongodb-uri", &pack.uri(), "--mongodb-database", pack.database()]).args(more);
        command.envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = child_guard::spawn(command).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { child, line }
    }

    fn url(&self, piece: &str) -> String {
        format!("{}?id={piece}", self.line["url"].as_str().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn curl(arguments: &[&str]) -> Command {
    let mut command = child_guard::command("curl").unwrap();
    command.args(["--silent", "--show-error", "--noproxy", "*"]).args(arguments).stdin(Stdio::null());
    command
}

/// What curl says at its end (`-w`): status and downloaded bytes.
fn curled(arguments: &[&str]) -> (u16, u64) {
    let output = curl(arguments).args(["-w", "%{http_code} %{size_download}"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (status, bytes) = said.split_once(' ').unwrap_or_else(|| panic!("{said}"));
    (status.parse().unwrap(), bytes.parse().unwrap())
}

/// Bytes that no two blocks have alike.
fn content(bytes: usize) -> Vec<u8> {
    let mut numbers = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| numbers.u8(..)).take(bytes).collect()
}

/// Packs one file; its piece CID and its CAR.
fn packed(pack: &Pack, name: &str, bytes: usize) -> (String, PathBuf) {
    pack.write(name, &content(bytes));
    let ended = pack.run(&[]);
    let line = ended.lines.iter().find(|line| line["file"].as_str().unwrap().ends_with(name)).unwrap();
    (line["piececid"].as_str().unwrap().to_owned(), pack.output.join(format!("{name}.car")))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_takes_cars_whole_in_ranges_and_goes_on_where_it_was_cut() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    let (piece, car) = packed(&pack, "a.bin", 24 << 20);
    let bytes = fs::read(&car).unwrap();
    let served = Served::start(&pack, &[], &[]);
    assert_eq!((served.line["cars"].as_u64(), served.line["tokenneeded"].as_bool()), (Some(1), Some(false)));
    let (url, folder) = (served.url(&piece), tempfile::tempdir().unwrap());
    let got = folder.path().join("got");
    let size = bytes.len() as u64;

    assert_eq!(curled(&["-o", text(&got), &url]), (200, size));
    assert!(fs::read(&got).unwrap() == bytes, "the whole CAR");
    let head = String::from_utf8(curl(&["-I", &url]).output().unwrap().stdout).unwrap().to_lowercase();
    assert!(
        head.starts_with("http/1.1 200") && head.contains(&format!("content-length: {size}\r\n")),
        "{head}"
    );
    assert!(head.contains("accept-ranges: bytes\r\n") && head.contains(&piece), "{head}");
    for (range, first, last) in
        [("0-0", 0, 0), ("5000000-5000999", 5_000_000, 5_000_999), ("-10", bytes.len() - 10, bytes.len() - 1)]
    {
        let (status, _) = curled(&["-r", range, "-o", text(&got), &url]);
        assert_eq!(status, 206, "{range}");
        assert!(fs::read(&got).unwrap() == bytes[first..=last], "{range}");
    }
    assert_eq!(curled(&["-r", "99999999999-", "-o", "/dev/null", &url]).0, 416);

    fs::remove_file(&got).unwrap();
    let mut cut = child_guard::spawn(curl(&["--limit-rate", "2M", "-o", text(&got), &url])).unwrap();
    eventually!(fs::metadata(&got).is_ok_and(|file| file.len() > 1 << 20), "a part is there");
    cut.kill().unwrap();
    cut.wait().unwrap();
    let part = fs::metadata(&got).unwrap().len();
    let (status, rest) = curled(&["-C", "-", "-o", text(&got), &url]);
    assert_eq!((status, part + rest), (206, size), "curl -C - asks for the rest");
    assert!(fs::read(&got).unwrap() == bytes, "the resumed CAR");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_are_served_beside_slow_ones() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    let (piece, car) = packed(&pack, "a.bin", 8 << 20);
    let bytes = fs::read(&car).unwrap();
    let served = Served::start(&pack, &[], &[]);
    let (url, folder) = (served.url(&piece), tempfile::tempdir().unwrap());
    let mut slow: Vec<_> = (0..8)
        .map(|_| child_guard::spawn(curl(&["--limit-rate", "50K", "-o", "/dev/null", &url])).unwrap())
        .collect();
    let names: Vec<PathBuf> = (0..16).map(|number| folder.path().join(number.to_string())).collect();
    let quick: Vec<_> =
        names.iter().map(|name| child_guard::spawn(curl(&["-o", text(name), &url])).unwrap()).collect();
    for mut client in quick {
        assert!(client.wait().unwrap().success());
    }
    for name in names {
        assert!(fs::read(&name).unwrap() == bytes, "{}", name.display());
    }
    for client in &mut slow {
        assert!(client.try_wait().unwrap().is_none(), "a slow client is read on");
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_car_that_is_recorded_later_is_found_and_one_that_changed_is_not_served() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    let (first, car) = packed(&pack, "a.bin", 3000);
    let served = Served::start(&pack, &[], &[]);
    let status = |piece: &str| curled(&["-o", "/dev/null", &served.url(piece)]).0;
    let (second, _car) = packed(&pack, "b.bin", 5000);
    eventually!(status(&second) == 200, "the one that was asked for is looked up");

    touch(&car);
    assert_eq!(status(&first), 404, "it changed");
    let cars = db.db.collection::<Document>("cars");
    // As `verify` writes it after it has read every byte.
    let verified = doc! { "$set": { "verifiedtime": bson::DateTime::now(), "verifiedgood": true } };
    cars.update_one(doc! { "piececid": &first }, verified).await.unwrap();
    eventually!(status(&first) == 200, "what was verified is served again");
    let damaged = doc! { "$set": { "verifiedtime": bson::DateTime::now(), "verifiedgood": false } };
    cars.update_one(doc! { "piececid": &second }, damaged).await.unwrap();
    drop(served);
    let served = Served::start(&pack, &[], &[]);
    assert_eq!(
        served.line["cars"].as_u64(),
        Some(1),
        "what was found damaged is not offered: {}",
        served.line
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_tls_is_spoken() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    let (piece, car) = packed(&pack, "a.bin", 3_000_000);
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let flags = ["--serve-tls-cert-file", text(&certificate), "--serve-tls-key-file", text(&key)];
    let served = Served::start(&pack, &flags, &[("CARFERRY_SETTING__SERVE__TOKEN", "s3cret")]);
    assert_eq!(served.line["tokenneeded"].as_bool(), Some(true));
    let (url, got) = (served.url(&piece), folder.path().join("got"));
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let ca = ["--cacert", text(&certificate), "-o", text(&got)];
    let with = |header: &str| curled(&[&ca[..], &["-H", header, &url]].concat());
    assert_eq!(with("Authorization: Bearer other").0, 401);
    assert_eq!(with("Accept: */*").0, 401);
    assert_eq!(with("Authorization: Bearer s3cret").0, 200);
    assert!(fs::read(&got).unwrap() == fs::read(&car).unwrap());
    let untrusted = curl(&["-o", "/dev/null", &url]).status().unwrap();
    assert_eq!(untrusted.code(), Some(60), "curl does not know the certificate");

    let refused = Duration::from_secs(20);
    let mut command = test_env::client_agent_command().unwrap();
    command.args(["serve", "--mongodb-uri", &pack.uri(), "--mongodb-database", pack.database()]);
    command.args(["--serve-listen", "127.0.0.1:0", "--serve-tls-cert-file", text(&certificate)]);
    let ended = tokio::time::timeout(refused, tokio::task::spawn_blocking(move || command.output())).await;
    let ended = ended.unwrap().unwrap().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("setting.serve.tlsKeyFile"), "{said}");
}

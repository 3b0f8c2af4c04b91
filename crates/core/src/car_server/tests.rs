use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use carferry_car::{PayloadSize, PieceCid};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const PIECE: &str = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";
const OTHER: &str = "baga6ea4seaqomqafu276g53zko4k23xzh4h4uecjwicbmvhsuqi7o4bhthhm4aq";

fn options() -> CarServerOptions {
    CarServerOptions {
        listen: "127.0.0.1:0".to_owned(),
        path: "/piece".to_owned(),
        token: None,
        tls: None,
        connections_max: 32,
        connections_per_address_max: 16,
        bytes_per_second_max: None,
        idle_timeout: Duration::from_secs(20),
        grace: Duration::from_secs(10),
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

fn offered(path: &Path, size: u64) -> OfferedCar {
    OfferedCar {
        piece_cid: PIECE.parse().unwrap(),
        path: path.to_owned(),
        size: PayloadSize::new(size),
        stamp: FileStamp::of(&path.metadata().unwrap()),
    }
}

/// A server of one file, in this process.
struct Served {
    folder: TempDir,
    bytes: Vec<u8>,
    address: SocketAddr,
    catalogue: Arc<Catalogue>,
    misses: Misses,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Served {
    async fn with(options: CarServerOptions, bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bytes = content(bytes);
        let path = folder.path().join("a.car");
        fs::write(&path, &bytes).unwrap();
        let (catalogue, misses) = Catalogue::new();
        catalogue.offer(offered(&path, bytes.len() as u64));
        let server = CarServer::bind(options, Arc::clone(&catalogue)).await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        let mut task = JoinSet::new();
        let stopped = stop.clone();
        task.spawn(async move { server.run(&stopped).await });
        Self { folder, bytes, address, catalogue, misses, stop, task }
    }

    async fn new(bytes: usize) -> Self {
        Self::with(options(), bytes).await
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.car")
    }

    async fn ask(&self, request: &str, headers: &[&str]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        send(&mut stream, request, headers).await;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        Answer::of(&all)
    }

    async fn get(&self, piece: &str, headers: &[&str]) -> Answer {
        self.ask(&format!("GET /piece?id={piece}"), headers).await
    }
}

async fn send(stream: &mut TcpStream, request: &str, headers: &[&str]) {
    let lines = [&["Host: here", "Connection: close"], headers, &["", ""]].concat().join("\r\n");
    let text = format!("{request} HTTP/1.1\r\n{lines}");
    stream.write_all(text.as_bytes()).await.unwrap();
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn of(all: &[u8]) -> Self {
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(all.len());
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_lowercase(), body: all.get(end + 4..).unwrap_or_default().to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

#[tokio::test]
async fn whole_files_ranges_and_heads_are_answered() {
    let served = Served::new(3_000_001).await;
    let (bytes, size) = (&served.bytes, "3000001");
    let whole = served.get(PIECE, &[]).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, Some(size)));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-encoding"), None);
    assert!(whole.body == *bytes, "the bytes of the file");

    let v2 = PIECE.parse::<PieceCid>().unwrap().v2(PayloadSize::new(3_000_001)).unwrap().to_string();
    let head = served.ask(&format!("HEAD /piece?id={v2}"), &["Range: bytes=5-9"]).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some(size), 0));
    let etag = head.header("etag").unwrap();
    assert_eq!(etag, format!("\"{PIECE}-{size}\""));

    for (range, first, last) in [
        ("bytes=0-3000000", 0, 3_000_000),
        ("bytes=0-0", 0, 0),
        ("bytes=1048575-1048576", 1_048_575, 1_048_576),
        ("bytes=2999999-", 2_999_999, 3_000_000),
        ("bytes=-7", 2_999_994, 3_000_000),
    ] {
        let part = served.get(PIECE, &[&format!("Range: {range}"), &format!("If-Range: {etag}")]).await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.header("content-range"), Some(&*format!("bytes {first}-{last}/{size}")), "{range}");
        assert!(part.body == bytes[first..=last], "{range}");
    }
    let beyond = served.get(PIECE, &["Range: bytes=3000001-"]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */3000001")));
    let other_state = served.get(PIECE, &["Range: bytes=5-", "If-Range: \"other\""]).await;
    assert_eq!((other_state.status, other_state.body.len()), (200, bytes.len()));
    let parts = served.get(PIECE, &["Range: bytes=0-1,4-5"]).await;
    assert_eq!((parts.status, parts.body.len()), (200, bytes.len()));
}

#[tokio::test]
async fn what_is_not_here_is_404_and_told_to_the_owner() {
    let mut served = Served::new(10).await;
    for request in [
        format!("GET /piece?id={OTHER}"),
        format!("HEAD /piece?id={OTHER}"),
        "GET /piece".to_owned(),
        "GET /piece?id=nonsense".to_owned(),
        format!("GET /?id={PIECE}"),
        format!("GET /piece/?id={PIECE}"),
        format!("GET /../../etc/passwd?id={PIECE}"),
    ] {
        assert_eq!(served.ask(&request, &[]).await.status, 404, "{request}");
    }
    for _asked_for in ["GET", "HEAD"] {
        assert_eq!(served.misses.next().await, Some(OTHER.parse().unwrap()));
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = served.ask(&format!("{method} /piece?id={PIECE}"), &[]).await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("get, head")), "{method}");
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_said() {
    let token = Some(Secret::new("s3cret"));
    let served = Served::with(CarServerOptions { token, ..options() }, 10).await;
    for headers in [&[][..], &["Authorization: Bearer s3cre"], &["Authorization: Basic s3cret"]] {
        for piece in [PIECE, OTHER] {
            assert_eq!(served.get(piece, headers).await.status, 401, "{headers:?}");
        }
    }
    let admitted = &["Authorization: Bearer s3cret"];
    assert_eq!(served.get(PIECE, admitted).await.status, 200);
    assert_eq!(served.get(OTHER, admitted).await.status, 404);
}

#[tokio::test]
async fn a_file_that_changed_or_is_gone_is_served_no_longer() {
    let served = Served::new(1000).await;
    let file = fs::File::options().write(true).open(served.path()).unwrap();
    // The same size, other bytes, and by its time another file.
    file.write_all_at(b"other", 10).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(served.get(PIECE, &[]).await.status, 404);
    assert_eq!(served.catalogue.pieces(), 0, "it was withdrawn");

    served.catalogue.offer(offered(&served.path(), 1000));
    assert_eq!(served.get(PIECE, &[]).await.status, 200);
    fs::remove_file(served.path()).unwrap();
    assert_eq!(served.get(PIECE, &[]).await.status, 404);
    assert_eq!(served.catalogue.pieces(), 0);
}

#[tokio::test]
async fn another_file_of_the_piece_takes_the_place_of_one_that_is_gone() {
    let served = Served::new(1000).await;
    let copy = served.folder.path().join("copy.car");
    fs::copy(served.path(), &copy).unwrap();
    served.catalogue.offer(offered(&copy, 1000));
    fs::remove_file(served.path()).unwrap();
    let answer = served.get(PIECE, &[]).await;
    assert!(answer.status == 200 && answer.body == served.bytes, "{}", answer.head);
}

#[tokio::test]
async fn a_file_that_changes_under_way_ends_the_answer_before_its_end() {
    let served = Served::new(64 << 20).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    send(&mut stream, &format!("GET /piece?id={PIECE}"), &[]).await;
    let mut first = vec![0; 1 << 16];
    stream.read_exact(&mut first).await.unwrap();
    let file = fs::File::options().write(true).open(served.path()).unwrap();
    file.write_all_at(b"other", 63 << 20).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let mut rest = Vec::new();
    // A reset is as good an end as a close.
    let _end = stream.read_to_end(&mut rest).await;
    assert!(first.len() + rest.len() < served.bytes.len(), "{} bytes came", first.len() + rest.len());
}

#[tokio::test]
async fn zeros_behind_a_car_are_not_offered() {
    let served = Served::new(1000).await;
    served.catalogue.withdraw(&offered(&served.path(), 1000));
    served.catalogue.offer(offered(&served.path(), 600));
    let answer = served.get(PIECE, &[]).await;
    assert!(answer.status == 200 && answer.body == served.bytes[..600], "{}", answer.head);
}

#[tokio::test]
async fn clients_that_stop_reading_are_cut_and_hold_up_no_other() {
    let idle_timeout = Duration::from_millis(400);
    let options = CarServerOptions { idle_timeout, connections_max: 9, ..options() };
    let served = Served::with(options, 64 << 20).await;
    let mut silent = Vec::new();
    let never_read = async || {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        send(&mut stream, &format!("GET /piece?id={PIECE}"), &[]).await;
        stream
    };
    for _ in 0..8 {
        silent.push(never_read().await);
    }
    let beside = served.get(PIECE, &["Range: bytes=0-9"]).await;
    assert_eq!((beside.status, beside.body.len()), (206, 10));
    silent.push(never_read().await);
    // All connections are taken now: this one is accepted once one of the silent was ended.
    let after = served.get(PIECE, &["Range: bytes=10-19"]).await;
    assert_eq!((after.status, after.body.len()), (206, 10));
    let mut cut = 0;
    for mut stream in silent {
        let mut rest = Vec::new();
        let _end = stream.read_to_end(&mut rest).await;
        cut += usize::from(rest.len() < served.bytes.len());
    }
    assert!(cut >= 1, "none was cut");
}

#[tokio::test]
async fn an_address_has_only_so_many_connections_and_the_rest_wait_for_none() {
    let options = CarServerOptions { connections_per_address_max: 2, ..options() };
    let served = Served::with(options, 10).await;
    let one = TcpStream::connect(served.address).await.unwrap();
    let two = TcpStream::connect(served.address).await.unwrap();
    let mut three = TcpStream::connect(served.address).await.unwrap();
    let mut byte = [0];
    assert_eq!(three.read(&mut byte).await.unwrap_or(0), 0, "the third is closed");
    drop((one, two));
    // The server sees the ends of the two in its own time.
    loop {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let request = format!("HEAD /piece?id={PIECE} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        let mut all = Vec::new();
        let sent = stream.write_all(request.as_bytes()).await;
        if sent.is_ok() && stream.read_to_end(&mut all).await.is_ok() && Answer::of(&all).status == 200 {
            break;
        }
    }
}

#[tokio::test]
async fn a_throttled_server_sends_the_same_bytes() {
    let options = CarServerOptions { bytes_per_second_max: Some(64 << 20), ..options() };
    let served = Served::with(options, 9_000_000).await;
    assert!(served.get(PIECE, &[]).await.body == served.bytes);
}

#[tokio::test]
async fn an_answer_under_way_is_ended_after_the_stop() {
    let mut served = Served::new(16 << 20).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    send(&mut stream, &format!("GET /piece?id={PIECE}"), &[]).await;
    let mut all = vec![0; 1000];
    stream.read_exact(&mut all).await.unwrap();
    served.stop.cancel();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(Answer::of(&all).body == served.bytes);
    served.task.join_next().await.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "it listens no longer");
}

#[test]
fn tls_needs_both_files_and_a_token_one_place() {
    let refused = |section: CarServerSection| {
        let section = CarServerSection { listen: Some("127.0.0.1:0".to_owned()), ..section };
        ErrorChain(&CarServerOptions::of(&section, Duration::ZERO).unwrap_err()).to_string()
    };
    let half = CarServerSection { tls_cert_file: Some("c.pem".into()), ..CarServerSection::default() };
    assert!(refused(half).contains("setting.serve.tlsKeyFile"));
    let twice = CarServerSection {
        token: Some(Secret::new("a")),
        token_file: Some("b".into()),
        ..CarServerSection::default()
    };
    assert!(refused(twice.named("setting.locator")).contains("setting.locator.token"));
    let unset = CarServerOptions::of(&CarServerSection::default(), Duration::ZERO).unwrap();
    assert!(unset.is_none(), "no address, no server");
}

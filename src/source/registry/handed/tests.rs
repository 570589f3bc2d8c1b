//! What is kept for whom and how long.

use super::*;
use crate::source::registry::retry::tests::Manual;

fn image(name: &str) -> RegistryReference {
    name.parse().unwrap()
}

fn login(user: &str, password: &str) -> HandedLogin {
    HandedLogin::basic(user, Zeroizing::new(password.to_owned())).unwrap()
}

/// What may be sent to `host` for the image, `user:password`.
fn usable(all: &HandedLogins, name: &str, host: &str) -> Vec<String> {
    let logins = all.of(&image(name)).usable(host);
    let text = logins.iter().map(|it| match it.login() {
        Login::Basic { username, password } => format!("{username}:{}", &**password),
        Login::Identity(token) => format!("identity {}", &**token),
        Login::Token(token) => format!("token {}", &**token),
        Login::Anonymous => "nobody".to_owned(),
    });
    text.collect()
}

fn setup() -> (Arc<Manual>, HandedLogins) {
    let clock = Manual::new();
    (clock.clone(), HandedLogins::new(clock))
}

fn pass(clock: &Manual, time: Duration) {
    clock.waits.lock().unwrap().push(time);
}

const HOST: &str = "r.example";
const APP: &str = "r.example/team/app:1";

#[test]
fn a_login_is_kept_if_its_pull_succeeds_and_is_used_before_the_older_ones() {
    let (_, all) = setup();
    let first = all.pull(&image(APP), login("a", "1"));
    assert_eq!(usable(&all, APP, HOST), ["a:1"], "while it pulls");
    drop(first);
    assert!(usable(&all, APP, HOST).is_empty(), "a pull that failed");

    all.pull(&image(APP), login("a", "1")).succeeded();
    assert_eq!(usable(&all, APP, HOST), ["a:1"]);
    let wrong = all.pull(&image(APP), login("a", "wrong"));
    assert_eq!(usable(&all, APP, HOST), ["a:wrong", "a:1"]);
    drop(wrong);
    assert_eq!(usable(&all, APP, HOST), ["a:1"], "the right one is there");

    all.pull(&image(APP), login("b", "2")).succeeded();
    all.pull(&image(APP), login("a", "renewed")).succeeded();
    assert_eq!(usable(&all, APP, HOST), ["a:renewed", "b:2"]);

    // One that was refused here is not kept, whoever else took it.
    let reader = all.of(&image(APP));
    let wrong = all.pull(&image(APP), login("a", "wrong"));
    reader.refused(&reader.usable(HOST)[0], "no");
    wrong.succeeded();
    assert_eq!(usable(&all, APP, HOST), ["a:renewed", "b:2"]);
    // One that was never tried does not take the place of one that was accepted.
    reader.usable(HOST)[0].accepted();
    for password in ["untried", "untried too"] {
        all.pull(&image(APP), login("a", password)).succeeded();
    }
    assert_eq!(
        usable(&all, APP, HOST),
        ["a:untried too", "a:renewed", "b:2"]
    );
    let tried = all.pull(&image(APP), login("a", "tried"));
    reader.usable(HOST)[0].accepted();
    tried.succeeded();
    assert_eq!(usable(&all, APP, HOST), ["a:tried", "b:2"]);

    for user in ["c", "d", "e"] {
        all.pull(&image(APP), login(user, "x")).succeeded();
    }
    let kept = ["e:x", "d:x", "c:x", "a:tried"];
    assert_eq!(usable(&all, APP, HOST), kept, "the oldest goes");
}

#[test]
fn a_login_is_for_its_repository_and_its_registry() {
    let (_, all) = setup();
    all.pull(&image(APP), login("a", "1")).succeeded();
    for (name, host, want) in [
        (APP, HOST, true),
        ("r.example/team/app:2", HOST, true),
        ("r.example/team/app2:1", HOST, false),
        ("r.example/team:1", HOST, false),
        ("r.example:5000/team/app:1", "r.example:5000", false),
        (APP, "mirror.example", false),
        (APP, "r.example:5000", false),
    ] {
        let found = usable(&all, name, host);
        assert_eq!(!found.is_empty(), want, "{name} at {host}: {found:?}");
    }
    let hub = login("h", "1").for_server("https://index.docker.io/v1/");
    all.pull(&image("busybox"), hub).succeeded();
    assert_eq!(usable(&all, "busybox", "docker.io"), ["h:1"]);
    for (server, host) in [
        ("mirror.example:5000", "mirror.example:5000"),
        ("https://mirror.example/v2/", "mirror.example"),
        ("registry-1.docker.io", "docker.io"),
        ("", "s.example"),
    ] {
        let name = "s.example/x";
        let pull = all.pull(&image(name), login("m", "1").for_server(server));
        assert_eq!(usable(&all, name, host), ["m:1"], "{server}");
        assert_eq!(
            usable(&all, name, "s.example").len(),
            usize::from(server.is_empty())
        );
        drop(pull);
    }
}

#[test]
fn logins_stay_as_long_as_somebody_reads_and_a_while_longer() {
    let (clock, all) = setup();
    all.pull(&image(APP), login("a", "1")).succeeded();
    let reader = all.of(&image(APP));
    for _ in 0..10 {
        pass(&clock, KEEP_UNUSED);
        all.sweep();
    }
    assert_eq!(reader.usable(HOST).len(), 1);

    drop(reader);
    all.sweep();
    pass(&clock, KEEP_UNUSED - SWEEP);
    all.sweep();
    assert_eq!(usable(&all, APP, HOST), ["a:1"]);
    // Looking was reading; the time begins anew.
    all.sweep();
    pass(&clock, KEEP_UNUSED - SWEEP);
    all.sweep();
    let mid = Arc::downgrade(&all.repositories()["r.example/team/app"]);
    assert!(mid.upgrade().is_some());
    pass(&clock, SWEEP);
    all.sweep();
    assert!(mid.upgrade().is_none());
    assert!(usable(&all, APP, HOST).is_empty());

    // Who reads before a login comes gets it too.
    let reader = all.of(&image(APP));
    all.pull(&image(APP), login("a", "2")).succeeded();
    assert_eq!(reader.usable(HOST).len(), 1);
}

#[test]
fn unused_logins_are_few_and_readers_leave_no_entry() {
    let (clock, all) = setup();
    for number in 0..MAX_UNUSED + 20 {
        let name = format!("r.example/app{number}");
        all.pull(&image(&name), login("a", "1")).succeeded();
        drop(all.of(&image(&format!("r.example/public{number}"))));
        all.sweep();
        pass(&clock, Duration::from_millis(1));
    }
    assert_eq!(all.repositories().len(), MAX_UNUSED);
    assert!(usable(&all, "r.example/app19", HOST).is_empty());
    assert_eq!(usable(&all, "r.example/app20", HOST), ["a:1"]);
}

#[test]
fn pulls_at_once_are_bounded() {
    let (_, all) = setup();
    let pulls: Vec<_> = (0..MAX_PULLING + 5)
        .map(|number| all.pull(&image(APP), login(&number.to_string(), "x")))
        .collect();
    let found = usable(&all, APP, HOST);
    assert_eq!(found.len(), MAX_PULLING);
    assert_eq!(found[0], format!("{}:x", MAX_PULLING + 4));
    drop(pulls);
    assert!(usable(&all, APP, HOST).is_empty());
}

#[test]
fn a_refused_login_rests_longer_each_time() {
    let (clock, all) = setup();
    all.pull(&image(APP), login("a", "1")).succeeded();
    let reader = all.of(&image(APP));
    for seconds in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
        let [login] = &reader.usable(HOST)[..] else {
            panic!("it is back");
        };
        reader.refused(login, "no");
        // Told by another request that was under way.
        reader.refused(login, "no");
        pass(&clock, Duration::from_secs(seconds - 1));
        assert!(reader.usable(HOST).is_empty(), "{seconds}");
        pass(&clock, Duration::from_secs(1));
    }
    let login = reader.usable(HOST)[0].clone();
    reader.refused(&login, "no");
    login.accepted();
    assert_eq!(reader.usable(HOST).len(), 1, "by another request");
}

#[test]
fn nothing_prints_a_secret_and_a_malformed_one_is_not_quoted() {
    let secret = || Zeroizing::new("s3cret".to_owned());
    let all = HandedLogins::default();
    let logins = [
        HandedLogin::basic("user", secret()).unwrap(),
        HandedLogin::identity_token(secret()).unwrap(),
        HandedLogin::registry_token(secret()).unwrap(),
        HandedLogin::encoded(Zeroizing::new("dTpzM2NyZXQ=".to_owned())).unwrap(),
    ];
    for login in logins {
        let said = format!("{login:?}");
        let pull = all.pull(&image(APP), login);
        let said = format!("{said} {pull:?} {all:?} {:?}", all.of(&image(APP)));
        assert!(!said.contains("s3cret"), "{said}");
    }
    for bad in ["s3cret!", "czNjcmV0", &"A".repeat(MAX_SECRET + 1)] {
        let error = HandedLogin::encoded(Zeroizing::new(bad.to_owned())).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
        let said = error.to_string();
        assert!(!said.contains("s3cret") && !said.contains("AAA"), "{said}");
    }
}

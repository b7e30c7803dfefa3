//! Tests of password hashing and its queue.

use std::pin::pin;

use futures_util::poll;
use kith_kernel::SeededRandom;

use super::*;
use crate::config::Config;

fn low_cost_passwords(hash_threads: u16) -> Passwords {
    let auth =
        Auth { password_memory_kib: 8, password_iterations: 1, hash_threads, ..Config::default().auth };
    Passwords::start(&auth, Arc::new(SeededRandom::new(1))).unwrap()
}

fn computed(passwords: &Passwords) -> u64 {
    passwords.counts.computed.load(Ordering::Relaxed)
}

#[tokio::test]
async fn only_the_right_password_matches() {
    let passwords = low_cost_passwords(1);
    let phc = passwords.hash(None, "correct horse".into()).await.unwrap();
    assert!(phc.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{phc}");
    let verify =
        async |password: &str| passwords.verify(None, password.into(), Some(phc.clone())).await.unwrap();
    assert_eq!(
        (verify("correct horse").await, verify("correct hors").await),
        (PasswordMatch::Yes, PasswordMatch::No)
    );
    assert_ne!(
        phc,
        passwords.hash(None, "correct horse".into()).await.unwrap(),
        "each hash uses a different salt"
    );
}

#[tokio::test]
async fn unknown_account_never_matches_but_costs_one_hash() {
    let passwords = low_cost_passwords(1);
    assert_eq!(passwords.verify(None, String::new(), None).await.unwrap(), PasswordMatch::No);
    assert_eq!(computed(&passwords), 1, "a login for an unknown account computes one password hash");
    assert!(passwords.dummy.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{}", passwords.dummy);
}

#[tokio::test]
async fn abandoned_hash_jobs_are_skipped() {
    let (jobs, waiting) = fair_queue(8);
    let passwords = Passwords { jobs, ..low_cost_passwords(1) };
    for _ in 0..3 {
        assert!(poll!(pin!(passwords.hash(None, "gone".into()))).is_pending());
        assert!(poll!(pin!(passwords.verify(None, "gone".into(), None))).is_pending());
    }
    let mut patient = pin!(passwords.hash(None, "patient".into()));
    assert!(poll!(&mut patient).is_pending());
    let worker = Worker::new(&Params::new(8, 1, 1, None).unwrap(), &passwords.counts);
    thread::spawn(move || worker.run(&waiting));
    patient.await.unwrap();
    assert_eq!(computed(&passwords), 1);
    assert_eq!(passwords.counts().queued.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn argon2_hashes_with_other_costs_are_outdated() {
    use argon2::PasswordHasher;
    let params = Params::new(64, 3, 2, Some(24)).unwrap();
    let elsewhere = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let phc = elsewhere.hash_password_with_salt(b"pw", b"0123456789abcdef").unwrap().to_string();
    let passwords = low_cost_passwords(1);
    assert_eq!(passwords.verify(None, "pw".into(), Some(phc)).await.unwrap(), PasswordMatch::Outdated);
}

/// ACC-06: bcrypt hashes of other systems are verified and reported as outdated.
#[tokio::test]
async fn bcrypt_hashes_are_verified_and_outdated() {
    let passwords = low_cost_passwords(1);
    // Test vector of crypt_blowfish, by Solar Designer.
    let phc = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    let verify =
        async |password: &str| passwords.verify(None, password.into(), Some(phc.into())).await.unwrap();
    assert_eq!((verify("U*U").await, verify("U*").await), (PasswordMatch::Outdated, PasswordMatch::No));
}

#[tokio::test]
async fn invalid_stored_hash_is_an_error() {
    let passwords = low_cost_passwords(1);
    for broken in [
        "",
        "$argon2id$",
        "$2b$10$abcdefghijklmnopqrstuv",
        "$2b$99$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
    ] {
        let answer = passwords.verify(None, "pw".into(), Some(broken.to_owned())).await;
        assert!(matches!(answer, Err(PasswordError::Fault(_))), "{broken}: {answer:?}");
    }
}

/// A network that fills the queue delays only its own jobs, not the jobs of other networks.
#[tokio::test]
async fn busy_network_evicts_only_its_own_jobs() {
    let (jobs, waiting) = fair_queue(4);
    let passwords = Passwords { jobs, ..low_cost_passwords(1) };
    let client = |n| Some(ClientAddress::new(IpAddr::from([192, 0, 2, n])));
    let mut many: Vec<_> = (0..4).map(|_| Box::pin(passwords.hash(client(1), "a".into()))).collect();
    for one in &mut many {
        assert!(poll!(one).is_pending());
    }
    assert!(matches!(passwords.hash(client(1), "b".into()).await, Err(PasswordError::Busy)));
    let mut elsewhere = pin!(passwords.hash(client(2), "c".into()));
    assert!(poll!(&mut elsewhere).is_pending());
    let mut last = many.pop().unwrap();
    assert!(
        matches!(last.as_mut().await, Err(PasswordError::Busy)),
        "the newest job of the network was evicted"
    );
    assert_eq!(passwords.counts().queued.load(Ordering::Relaxed), 4);
    let worker = Worker::new(&Params::new(8, 1, 1, None).unwrap(), &passwords.counts);
    thread::spawn(move || worker.run(&waiting));
    elsewhere.await.unwrap();
    for one in many {
        one.await.unwrap();
    }
    assert_eq!(passwords.counts().queued.load(Ordering::Relaxed), 0);
}

#[test]
fn hash_thread_count_is_at_least_one() {
    let auth = Auth { hash_threads: 0, ..Config::default().auth };
    assert!(auth.hash_thread_count() >= 1);
}

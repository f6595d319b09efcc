//! How many tokens one core verifies in a second: `cargo run --release -p podpin-affinity --example verify`.
//!
//! The budget is 500,000; with the SHA instructions of the processor it is a small multiple of that.
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use podpin_affinity::{Key, KeyError, Keyring, Lifetime, SessionId, Token, claim};

const ROUND: u32 = 10_000;

fn main() -> Result<(), KeyError> {
    let old = Key::new("k1", &[b'o'; 43])?;
    let new = Key::new("k2", &[b'n'; 43])?;
    let keyring = Keyring::new(vec![new, old])?;
    let token =
        Token { session: SessionId::from_bytes([1; 16]), endpoint: [2; 16], started_seconds: 1_800_000_000 };
    let lifetime = Lifetime { now_seconds: 1_800_000_100, absolute_timeout_seconds: 86_400 };
    let text = keyring.sign("chat", &token);
    let header = format!("theme=dark; podpin-chat={text}; lang=en");
    println!("a token of {} characters", text.len());

    rate("verify", || keyring.verify("chat", black_box(text.as_bytes()), lifetime).is_ok());
    rate("find and verify", || {
        let found = claim([black_box(header.as_bytes())], "podpin-chat", |value| {
            keyring.verify("chat", value, lifetime)
        });
        matches!(found, podpin_affinity::Claim::Pinned(_))
    });
    rate("sign", || !keyring.sign("chat", black_box(&token)).is_empty());
    Ok(())
}

/// Runs `work` for a second and prints its rate.
fn rate(name: &str, work: impl Fn() -> bool) {
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        assert!((0..ROUND).all(|_| black_box(work())), "{name} failed");
        rounds += 1;
    }
    let (count, seconds) = (f64::from(rounds * ROUND), start.elapsed().as_secs_f64());
    println!("{name:16} {:>10.0} a second, {:>6.0} ns each", count / seconds, seconds * 1e9 / count);
}

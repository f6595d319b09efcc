//! Cookies and session ids of any client: only a keyring makes tokens, and no other cookie is touched.

use std::sync::LazyLock;

use podpin_affinity::{
    Claim, Key, Keyring, Lifetime, SessionId, Token, TokenError, Verified, claim, without_cookie,
};

const SERVICE: &str = "chat";
const COOKIE: &str = "podpin-chat";
const NOW: Lifetime = Lifetime { now_seconds: 1_800_000_000, absolute_timeout_seconds: 86_400 };

/// The keys of `fuzz/corpus/affinity`, newest first and in the other order.
static KEYRINGS: LazyLock<[Keyring; 2]> = LazyLock::new(|| {
    let key = |id: &str| Key::new(id, format!("{id:0>43}").as_bytes()).expect("a key");
    let keyring = |ids: [&'static str; 2]| Keyring::new(ids.map(key).into()).expect("a keyring");
    [keyring(["k2", "k1"]), keyring(["k1", "k2"])]
});

/// Each line is tried as a `Cookie` line, as a token and as a bound session id; all lines together are one request.
pub fn affinity(input: &[u8]) {
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    for line in &lines {
        only_what_we_signed_is_a_token(line);
        only_what_we_bound_is_bound(line);
        only_our_cookie_is_taken_out(line);
    }
    let [keyring, _] = &*KEYRINGS;
    let claimed = claim(lines.iter().copied(), COOKIE, |text| keyring.verify(SERVICE, text, NOW));
    if lines.iter().flat_map(|line| pairs(line)).any(|pair| is_ours(&pair)) {
        assert_ne!(claimed, Claim::None);
    } else {
        assert_eq!(claimed, Claim::None);
        assert!(lines.iter().all(|line| without_cookie(line, COOKIE).as_deref() == Some(*line)));
    }
    what_we_signed_holds_until_it_is_changed(input);
}

/// The keyring whose first key signed.
fn signer(verified: &Verified) -> &'static Keyring {
    let [newest, oldest] = &*KEYRINGS;
    if verified.signed_by_first_key { newest } else { oldest }
}

fn only_what_we_signed_is_a_token(text: &[u8]) {
    let [keyring, _] = &*KEYRINGS;
    if let Ok(verified) = keyring.verify(SERVICE, text, NOW) {
        let signed = signer(&verified).sign(SERVICE, &verified.token);
        assert_eq!(signed.as_bytes(), text, "another text for the same token");
    }
}

fn only_what_we_bound_is_bound(text: &[u8]) {
    let [keyring, _] = &*KEYRINGS;
    if let Ok(bound) = keyring.unbind(SERVICE, text, NOW) {
        let again = signer(&bound.verified).bind(SERVICE, &bound.verified.token, &bound.value);
        assert_eq!(again.as_deref().map(str::as_bytes), Some(text), "another text for the same value");
    }
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn is_ours(pair: &&[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.trim_ascii() == COOKIE.as_bytes() && pair.contains(&b'=')
}

/// The cookies of a line that are not ours.
fn others(line: &[u8]) -> Vec<&[u8]> {
    pairs(line).filter(|pair| !pair.is_empty() && !is_ours(pair)).collect()
}

fn only_our_cookie_is_taken_out(line: &[u8]) {
    let left = without_cookie(line, COOKIE);
    let left = left.as_deref().unwrap_or_default();
    let found = claim([left], COOKIE, |_| Err(TokenError::Malformed));
    assert_eq!(found, Claim::None, "the pod would see it");
    assert_eq!(others(left), others(line));
}

/// A token made of the input, and the same with one bit changed.
fn what_we_signed_holds_until_it_is_changed(input: &[u8]) {
    let [keyring, _] = &*KEYRINGS;
    let mut room = [0; 34];
    room.iter_mut().zip(input).for_each(|(slot, byte)| *slot = *byte);
    let [bit, at, seed @ ..] = room;
    let number = u128::from_be_bytes(std::array::from_fn(|index| seed.get(index).copied().unwrap_or(0)));
    let token = Token {
        session: SessionId::from_bytes(number.to_be_bytes()),
        endpoint: number.rotate_left(64).to_le_bytes(),
        started_seconds: NOW.now_seconds - u64::from(bit),
    };
    let mut text = keyring.sign(SERVICE, &token).into_bytes();
    let verified = keyring.verify(SERVICE, &text, NOW);
    assert_eq!(verified, Ok(Verified { token, signed_by_first_key: true }));
    let length = text.len();
    if let Some(byte) = text.get_mut(usize::from(at) % length) {
        *byte ^= 1 << (bit % 8);
    }
    assert!(keyring.verify(SERVICE, &text, NOW).is_err(), "a changed token holds");
}

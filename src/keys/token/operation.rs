//! One operation of a token, in the process that was started for it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as TokenError, RvError},
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use zeroize::Zeroizing;

use super::{Answer, Question};
use crate::error::{Error, Result};

/// Reads a question and gives its answer.
///
/// # Errors
/// `Invalid` if it is none.
pub(crate) fn answer(question: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let question: Question = serde_json::from_slice(question)
        .map_err(|_| Error::invalid("not a question to a token"))?;
    let answer = operate(&question).unwrap_or_else(|answer| answer);
    let mut json = Zeroizing::new(Vec::with_capacity(64 << 10));
    serde_json::to_writer(&mut *json, &answer)
        .map_err(|e| Error::internal("answer of a token").with_source(e))?;
    Ok(json)
}

fn operate(question: &Question) -> Result<Answer, Answer> {
    let module = question.module.display();
    let away = |what: &str, e: TokenError| Answer::Away(format!("{module}: {what}: {e}"));
    let context = Pkcs11::new(&question.module).map_err(|e| away("cannot be loaded", e))?;
    let flags = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    context
        .initialize(flags)
        .map_err(|e| away("does not start", e))?;
    let slots = slots(&context, question).map_err(|e| away("no list of tokens", e))?;
    if slots.is_empty() {
        let wanted = question
            .token
            .as_deref()
            .unwrap_or("of this slot or serial number");
        return Err(Answer::Away(format!(
            "{module}: no token {wanted:?} is there"
        )));
    }
    let mut refusals = Vec::new();
    for slot in slots {
        let session = context
            .open_ro_session(slot)
            .map_err(|e| away("no session", e))?;
        let pin = AuthPin::from(question.pin.as_str());
        if let Err(error) = session.login(UserType::User, Some(&pin)) {
            refusals.push(match error {
                // Trying again would lock the token.
                TokenError::Pkcs11(RvError::PinIncorrect | RvError::PinLocked, _) => {
                    return Err(Answer::Refused(format!("{module}: {error}")));
                }
                _ => format!("{module}: login: {error}"),
            });
            continue;
        }
        match open(&session, question) {
            Ok(plain) => return Ok(Answer::Plain(STANDARD.encode(&plain[..]))),
            Err(why) => refusals.push(why),
        }
    }
    Err(Answer::Refused(refusals.join("; ")))
}

/// The slots whose token is the one that is wanted.
fn slots(context: &Pkcs11, question: &Question) -> Result<Vec<Slot>, TokenError> {
    let mut fitting = Vec::new();
    for slot in context.get_slots_with_initialized_token()? {
        if question.slot.is_some_and(|wanted| wanted != slot.id()) {
            continue;
        }
        let token = context.get_token_info(slot)?;
        let pairs = [
            (&question.token, token.label()),
            (&question.manufacturer, token.manufacturer_id()),
            (&question.model, token.model()),
            (&question.serial, token.serial_number()),
        ];
        let fits = |(wanted, has): &(&Option<String>, &str)| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted == has.trim_end())
        };
        if pairs.iter().all(fits) {
            fitting.push(slot);
        }
    }
    Ok(fitting)
}

fn open(session: &Session, question: &Question) -> Result<Zeroizing<Vec<u8>>, String> {
    let key = key(session, question)?;
    let mut refusals = Vec::new();
    for (bytes, hash) in &question.sealed {
        let bytes = STANDARD
            .decode(bytes)
            .map_err(|_| "not base64".to_owned())?;
        let (hash, mask) = match &**hash {
            "sha256" => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
            _ => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        };
        let padding = PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty());
        match session.decrypt(&Mechanism::RsaPkcsOaep(padding), key, &bytes) {
            Ok(plain) => return Ok(Zeroizing::new(plain)),
            Err(error) => {
                let why = error.to_string();
                if !refusals.contains(&why) {
                    refusals.push(why);
                }
            }
        }
    }
    Err(format!(
        "its key opens none of the packet: {}",
        refusals.join("; ")
    ))
}

fn key(session: &Session, question: &Question) -> Result<ObjectHandle, String> {
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    if let Some(label) = &question.object {
        template.push(Attribute::Label(label.clone().into_bytes()));
    }
    if let Some(id) = &question.id {
        template.push(Attribute::Id(id.clone()));
    }
    let found = session.find_objects(&template).map_err(|e| e.to_string())?;
    match found[..] {
        [key] => Ok(key),
        [] => Err(format!(
            "it has no private key {:?}",
            question.object.as_deref().unwrap_or("of this id")
        )),
        _ => Err(format!(
            "{} private keys fit; give object= and id=",
            found.len()
        )),
    }
}

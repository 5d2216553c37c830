//! The child's side: loads one model, then answers until the pipe ends.

use std::io::{Read, Write};
use std::path::Path;

use crate::catalogue::Entry;
use crate::wire::{self, Outcome, Reply, WireError};

/// Loads a model of the catalogue from its directory, says that it is ready or why not, and answers requests. Comes back when
/// the pipe ends or breaks, which is when the agent goes.
///
/// # Errors
/// The pipe; a request that is none.
pub fn serve(model: &str, dir: &Path, from: &mut impl Read, to: &mut impl Write) -> Result<(), WireError> {
    #[cfg(feature = "scripted")]
    if let Some(entry) = Entry::named(model)
        && let Ok(kind) = std::env::var(crate::scripted::setting(entry))
    {
        return crate::scripted::serve(&kind, entry, from, to);
    }
    match load(model, dir) {
        Ok(loaded) => answer(&loaded, from, to),
        Err(why) => wire::send(to, &Reply { id: 0, outcome: Outcome::Failed(why) }),
    }
}

#[cfg(feature = "candle")]
enum Loaded {
    Embeds(Box<crate::Bert>),
    Writes(Box<crate::Llama>),
}

#[cfg(feature = "candle")]
fn load(model: &str, dir: &Path) -> Result<Loaded, String> {
    use crate::catalogue::{File, Task};
    let entry = Entry::named(model).ok_or_else(|| format!("there is no model `{model}`"))?;
    let read = |file: File| {
        let sha = file.sha().ok_or("a hash of the catalogue cannot be read")?;
        crate::weights::read_checked(&dir.join(file.name), &sha, file.bytes).map_err(|error| chain(&error))
    };
    let weights = read(entry.weights)?;
    match (entry.task, entry.tokenizer) {
        (Task::Embeds(form), Some(tokenizer)) => {
            let loaded = crate::Bert::load(&weights, &read(tokenizer)?, form);
            loaded.map(|bert| Loaded::Embeds(Box::new(bert))).map_err(|error| chain(&error))
        }
        (Task::Embeds(_), None) => Err("the catalogue names no tokenizer".to_owned()),
        (Task::Writes(speech), _) => {
            let loaded = crate::Llama::load(&weights, speech);
            loaded.map(|llama| Loaded::Writes(Box::new(llama))).map_err(|error| chain(&error))
        }
    }
}

#[cfg(feature = "candle")]
fn answer(loaded: &Loaded, from: &mut impl Read, to: &mut impl Write) -> Result<(), WireError> {
    let ready = |dimension| Reply { id: 0, outcome: Outcome::Ready { version: wire::VERSION, dimension } };
    let failed = |id, error: &dyn std::error::Error| Reply { id, outcome: Outcome::Failed(chain(error)) };
    match loaded {
        Loaded::Embeds(bert) => {
            wire::send(to, &ready(bert.dimension()))?;
            while let Some(request) = wire::receive::<wire::Request>(from)? {
                request.check()?;
                let reply = match bert.embed(&request.texts) {
                    Ok(vectors) => Reply::of(request.id, &vectors),
                    Err(error) => failed(request.id, &error),
                };
                wire::send(to, &reply)?;
            }
        }
        Loaded::Writes(llama) => {
            wire::send(to, &ready(0))?;
            while let Some(request) = wire::receive::<wire::WriteRequest>(from)? {
                request.check()?;
                let reply = match llama.write(&request.prompt) {
                    Ok(text) => Reply::text(request.id, &text),
                    Err(error) => failed(request.id, &error),
                };
                wire::send(to, &reply)?;
            }
        }
    }
    Ok(())
}

/// No model can be made in a build without them.
#[cfg(not(feature = "candle"))]
enum Loaded {}

#[cfg(not(feature = "candle"))]
fn load(model: &str, _: &Path) -> Result<Loaded, String> {
    let known = Entry::named(model).map_or("unknown", |entry| entry.what);
    Err(format!("this program was built without models (`{model}`: {known})"))
}

#[cfg(not(feature = "candle"))]
fn answer(loaded: &Loaded, _: &mut impl Read, _: &mut impl Write) -> Result<(), WireError> {
    match *loaded {}
}

#[cfg(feature = "candle")]
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_not_there_is_told_in_the_first_frame() {
        let dir = Path::new("/nowhere");
        for model in ["all-minilm-l6-v2", "smollm2-135m-instruct", "no-such-model"] {
            let (mut out, mut none) = (Vec::new(), &b""[..]);
            serve(model, dir, &mut none, &mut out).unwrap();
            let reply: Reply = wire::receive(&mut out.as_slice()).unwrap().unwrap();
            assert!(matches!(reply.ready(), Err(WireError::Failed(why)) if !why.is_empty()), "{model}");
        }
    }
}

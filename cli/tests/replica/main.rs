//! A model too large for any one host, served by three of them: hosts are network namespaces that find each other by
//! multicast, and nobody names a layer or a rank.

#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, reason = "tests")]

mod hosts;
#[allow(dead_code, reason = "shared by test programs that each use a part")]
#[path = "../../../cluster-config/tests/netns/lab.rs"]
mod lab;
mod model;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use hosts::Hosts;
use serde_json::{Value, json};
use support::http::End;

const TOKENS: u32 = 40;

fn prompt(stream: bool) -> Value {
    json!({
        "model": model::NAME,
        "prompt": "w11 w4711 w512 w1066 w7 w42 w3001",
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": true,
        "stream": stream,
    })
}

#[test]
fn three_hosts_serve_what_none_of_them_holds_however_it_is_divided() {
    let big = model::Big::new();
    let mut texts = Vec::new();
    // As planned, by tensors, by layers, and both.
    for layout in [None, Some("3"), Some("1+1+1"), Some("2+1")] {
        let hosts = Hosts::start(&big, layout);
        let (status, answer) = hosts.ask(&prompt(false));
        assert_eq!(status, 200, "{layout:?}: {answer}");
        assert_eq!(answer["usage"]["completion_tokens"], TOKENS, "{answer}");
        texts.push((layout, answer["choices"][0]["text"].as_str().expect("a text").to_owned()));
    }
    for (layout, text) in &texts {
        assert_eq!(text, &texts[0].1, "{layout:?}");
    }
}

#[test]
fn an_answer_survives_the_death_of_any_host() {
    let big = model::Big::new();
    let mut undisturbed = None;
    for victim in ["one", "two", "three"] {
        let mut hosts = Hosts::start(&big, None);
        let undisturbed = undisturbed.get_or_insert_with(|| {
            let End::Done(text) = hosts.stream(&prompt(true)).end() else { panic!("nothing disturbs it") };
            text
        });
        let mut stream = hosts.stream(&prompt(true));
        let mut text = stream.next_text();
        for _ in 0..5 {
            text.push_str(&stream.next_text());
        }
        hosts.kill(victim);
        let killed = Instant::now();
        let end = stream.end();
        let End::Done(rest) = end else { panic!("{victim}: {end:?}") };
        assert_eq!(&(text + &rest), undisturbed, "{victim}");
        assert!(killed.elapsed() < Duration::from_secs(10), "{victim}: {:?}", killed.elapsed());
    }
}

#[test]
fn an_answer_survives_a_cable_that_is_pulled() {
    let big = model::Big::new();
    let hosts = Hosts::start(&big, None);
    let End::Done(undisturbed) = hosts.stream(&prompt(true)).end() else { panic!("nothing disturbs it") };
    let mut stream = hosts.stream(&prompt(true));
    let text = stream.next_text();
    hosts.cut("two");
    let cut = Instant::now();
    let end = stream.end();
    let End::Done(rest) = end else { panic!("{end:?}") };
    assert_eq!(text + &rest, undisturbed);
    assert!(cut.elapsed() < Duration::from_secs(15), "{:?}", cut.elapsed());
}

#[test]
fn what_the_hosts_left_cannot_hold_is_refused_with_what_is_missing() {
    let big = model::Big::new();
    let mut hosts = Hosts::start(&big, None);
    hosts.kill("one");
    hosts.kill("two");
    hosts.wait_for_nodes(1);
    let (status, answer) = hosts.ask(&prompt(false));
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(status >= 500 && message.contains("cannot be divided over the 0.8 GB"), "{status} {message}");
}

//! Following a run and a log: a client that comes back gets what it has not seen, all of it, once.

use axum::body::{Body, BodyDataStream};
use axum::http::Method;
use futures::StreamExt;
use serde_json::Value;

use crate::world::{Answer, World, request, text};

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: u64,
    kind: String,
    data: Value,
}

fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let data = serde_json::from_str(&field("data: ")?).unwrap();
    Some(Event { id: field("id: ").unwrap().parse().unwrap(), kind: field("event: ").unwrap(), data })
}

fn events(answer: &Answer) -> Vec<Event> {
    answer.text().split("\n\n").filter_map(parse).collect()
}

async fn follow(world: &World, path: &str, after: u64) -> Answer {
    let mut request = request(Method::GET, path, Some(&world.admin), Body::empty());
    request.headers_mut().insert("last-event-id", after.into());
    world.send(request).await
}

/// A connection that is read event by event, and dropped when one has seen enough.
struct Following {
    body: BodyDataStream,
    read: String,
}

impl Following {
    async fn open(world: &World, path: &str, after: u64) -> Self {
        let mut request = request(Method::GET, path, Some(&world.admin), Body::empty());
        request.headers_mut().insert("last-event-id", after.into());
        let response = world.open(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), read: String::new() }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.read.split_once("\n\n") {
                let (event, rest) = (parse(block), rest.to_owned());
                self.read = rest;
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let bytes = self.body.next().await?.unwrap();
            self.read.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

async fn listening(world: &World) -> (String, String) {
    let run = world.run("a", "listen").await;
    let path = format!("/api/v1/runs/{}", text(&run["id"]));
    world.wait_for_text(&path, "executing").await;
    let run = world.get(&path).await.json();
    (path, format!("/api/v1/attempts/{}/log", text(&run["tasks"][0]["attempts"][0]["id"])))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_has_ended_is_told_from_every_point() {
    let world = World::new().await;
    let run = world.ended_run("a").await;
    let path = format!("/api/v1/runs/{}/events", text(&run["id"]));
    let all = events(&world.get(&path).await);
    assert!(all.len() > 5, "{all:?}");
    assert_eq!((all[0].kind.as_str(), all.last().unwrap().kind.as_str()), ("run-created", "run-ended"));
    let last = all.last().unwrap().id;
    assert_eq!(all.iter().map(|event| event.id).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    for seen in 0..last {
        let answer = follow(&world, &path, seen).await;
        assert_eq!(answer.status, 200);
        assert_eq!(events(&answer), all[usize::try_from(seen).unwrap()..]);
    }
    assert_eq!(follow(&world, &path, last).await.status, 204, "a browser need not come back");
    assert_eq!(follow(&world, &path, last + 1).await.code(), "bad-parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_to_a_run_misses_nothing() {
    let world = World::new().await;
    let (run, _) = listening(&world).await;
    let path = format!("{run}/events");
    let mut seen = Vec::new();
    // Comes back for every event that there is by now.
    while seen.last().is_none_or(|event: &Event| event.data["data"]["phase"] != "execute") {
        let mut following = Following::open(&world, &path, seen.last().map_or(0, |event| event.id)).await;
        seen.push(following.next().await.unwrap());
    }
    // Waits for the next one before there is any, and goes away.
    let waiting = Following::open(&world, &path, seen.last().unwrap().id).await;
    drop(waiting);
    let waiting = Following::open(&world, &path, seen.last().unwrap().id).await;
    world.finish();
    seen.extend(waiting.rest().await);
    assert_eq!(seen, events(&world.get(&path).await));
    assert_eq!(seen.last().unwrap().kind, "run-ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_to_a_log_misses_nothing() {
    let world = World::new().await;
    let (run, log) = listening(&world).await;
    let path = format!("{log}?follow=true");
    let mut seen: Vec<Event> = Vec::new();
    for n in 1..=20 {
        let after = seen.last().map_or(0, |event| event.id);
        // Half of the lines are there before the client is, half of them come while it waits.
        if n % 2 == 0 {
            world.say(&format!("{n}\n"));
        }
        let mut following = Following::open(&world, &path, after).await;
        if n % 2 == 1 {
            world.say(&format!("{n}\n"));
        }
        seen.push(following.next().await.unwrap());
    }
    let last = Following::open(&world, &path, seen.last().unwrap().id).await;
    world.say("at the very end\n");
    world.finish();
    seen.extend(last.rest().await);
    let lines: Vec<String> = seen.iter().map(|event| text(&event.data["text"]).trim().to_owned()).collect();
    let mut wanted: Vec<String> = (1..=20).map(|n: u32| n.to_string()).collect();
    wanted.push("at the very end".to_owned());
    assert_eq!(lines, wanted);
    assert_eq!(seen.iter().map(|event| event.id).collect::<Vec<_>>(), (1..=21).collect::<Vec<_>>());
    // After the end: the same from every point, then nothing.
    world.get(&format!("{run}?wait=60")).await;
    for known in 0..21_usize {
        assert_eq!(events(&follow(&world, &path, known as u64).await), seen[known..]);
    }
    assert_eq!(follow(&world, &path, 21).await.status, 204);
    // A browser comes back with the URL it began with: the later number counts.
    let again = follow(&world, &format!("{path}&after=3"), 20).await;
    assert_eq!(events(&again), seen[20..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_is_refused() {
    let world = World::new().await;
    let (run, log) = listening(&world).await;
    for path in [format!("{run}/events"), log.clone(), format!("{log}?follow=true")] {
        for id in ["", "x", "-1", "1.5"] {
            let mut request = request(Method::GET, &path, Some(&world.admin), Body::empty());
            request.headers_mut().insert("last-event-id", id.parse().unwrap());
            let answer = world.send(request).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "bad-parameter"), "{path} {id:?}");
        }
    }
    world.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_is_bounded() {
    let world = World::new().await;
    let (run, _) = listening(&world).await;
    for wait in ["61", "86400", "-1", "x", ""] {
        let answer = world.get(&format!("{run}?wait={wait}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad-parameter"), "{wait}");
    }
    for wait in ["0", "1"] {
        let answer = world.get(&format!("{run}?wait={wait}")).await;
        assert_eq!(answer.json()["state"], "running", "the run is answered as it is");
    }
    let path = format!("{run}?wait=60");
    let waiting = world.get(&path);
    let ending = async { world.finish() };
    let (answer, ()) = futures::future::join(waiting, ending).await;
    assert_eq!(answer.json()["state"], "succeeded");
}

//! Both ends of a stream, with each other and with whoever breaks the rules; time is the test's.

use std::future::poll_fn;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use proptest::prelude::*;
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::wire::frames::{AnswererFrame, AskerFrame, FRAME_HEADER_BYTES, MAX_PIECE_BYTES, Urgency};
use swarm_proto::wire::{ANSWER_HEADER_BYTES, Answer, Ask, Refusal, Request};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::answering::{Answering, QUESTIONS_MAX};
use super::asking::{Asking, Broken};
use super::*;

type Pipe = Compat<DuplexStream>;

/// Far more than anything here takes, in the time of the test.
const PATIENCE: Duration = Duration::from_secs(3_600);
const SILENCE: Duration = Duration::from_secs(10);
const CHUNK: Ask = Ask::Chunk { index: ChunkIndex::FIRST, want_segment_values: false };

fn pipe(room: usize) -> (Pipe, Pipe) {
    let (one, other) = duplex(room);
    (one.compat(), other.compat())
}

fn shared(rate: Option<u64>, room: usize) -> (Arc<Shared>, mpsc::Receiver<Inbound>) {
    let (inbound, questions) = mpsc::channel(room);
    let throttle = Throttle::new(rate);
    (Arc::new(Shared { inbound, throttle, buffers: Buffers::default(), silence: SILENCE }), questions)
}

fn request(ask: Ask) -> Request {
    Request { item: ItemId::from_bytes([1; 32]), ask, ticket: Bytes::from_static(b"a ticket") }
}

fn data(byte: u8, len: usize) -> Answer {
    Answer::Data { segment_values: Bytes::new(), bytes: vec![byte; len].into() }
}

/// The asker's end, on its own task.
struct Asker {
    questions: mpsc::UnboundedSender<Question>,
    task: JoinHandle<Broken>,
}

impl Asker {
    fn on(mut stream: Pipe) -> Self {
        let (questions, mut queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut asking = Asking::new(shared(None, 1).0);
            let broken = poll_fn(|cx| {
                while let Poll::Ready(Some(question)) = queue.poll_recv(cx) {
                    asking.push(question);
                }
                asking.poll(cx, &mut stream)
            });
            let broken = broken.await;
            asking.end(&AskError::Closed);
            broken
        });
        Self { questions, task }
    }

    fn ask(&self, ask: Ask, urgency: Urgency) -> (Arc<Exchange>, oneshot::Receiver<Result<Answer, AskError>>) {
        let (reply, answer) = oneshot::channel();
        let exchange = Arc::new(Exchange::of(urgency));
        let question = Question { request: request(ask), exchange: exchange.clone(), reply };
        self.questions.send(question).expect("the stream lives");
        (exchange, answer)
    }
}

/// The answerer's end, on its own task.
struct Answerer {
    questions: mpsc::Receiver<Inbound>,
    task: JoinHandle<Option<Fault>>,
}

impl Answerer {
    fn on(stream: Pipe) -> Self {
        Self::with(stream, None, 256)
    }

    fn with(mut stream: Pipe, rate: Option<u64>, room: usize) -> Self {
        let (shared, questions) = shared(rate, room);
        let task = tokio::spawn(async move {
            let mut answering = Answering::new(DeviceId::from_bytes([2; 32]), shared);
            poll_fn(|cx| answering.poll(cx, &mut stream)).await
        });
        Self { questions, task }
    }

    async fn next(&mut self) -> Inbound {
        timeout(PATIENCE, self.questions.recv()).await.expect("in time").expect("the stream lives")
    }
}

fn connected() -> (Asker, Answerer) {
    let (one, other) = pipe(256 << 10);
    (Asker::on(one), Answerer::on(other))
}

/// A frame of the answerer with what follows it.
async fn read_frame(stream: &mut Pipe) -> (AnswererFrame, Vec<u8>) {
    let mut header = [0; FRAME_HEADER_BYTES];
    timeout(PATIENCE, stream.read_exact(&mut header)).await.expect("in time").expect("the stream lives");
    let frame = AnswererFrame::decode(&header).expect("a good frame");
    let len = match frame {
        AnswererFrame::Answer { .. } => ANSWER_HEADER_BYTES,
        AnswererFrame::Piece { len, .. } => len,
        AnswererFrame::Withdrawn { .. } => 0,
    };
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.expect("the stream lives");
    (frame, body)
}

fn ask_frame(number: u32, ask: Ask, urgency: Urgency) -> Vec<u8> {
    let request = request(ask).encode().expect("it fits");
    [&AskerFrame::Ask { number, urgency, len: request.len() }.encode()[..], &request].concat()
}

#[tokio::test(start_paused = true)]
async fn an_answer_arrives_as_it_was_sent_and_its_receipt_counts_the_payload() {
    let (asker, mut answerer) = connected();
    for (sent, paid) in [
        (data(7, CHUNK_BYTES as usize), CHUNK_BYTES),
        (Answer::Busy { retry_ms: 5 }, 0),
        (Answer::NotHeld, 0),
        (Answer::Refused(Refusal::BadTicket), 0),
        (data(9, 1), 1),
    ] {
        let (exchange, answer) = asker.ask(CHUNK, Urgency::Queued);
        let inbound = answerer.next().await;
        assert_eq!(inbound.request, request(CHUNK));
        assert_eq!(inbound.responder.send(sent.clone()).await, paid);
        assert_eq!(answer.await.expect("answered"), Ok(sent));
        assert_eq!(exchange.received(), paid);
    }
    let values = Ask::Chunk { index: ChunkIndex::FIRST, want_segment_values: true };
    let with_values = Answer::Data { segment_values: vec![1; 512].into(), bytes: vec![2; 100_000].into() };
    let (_, answer) = asker.ask(values, Urgency::Queued);
    assert_eq!(answerer.next().await.responder.send(with_values.clone()).await, 100_000);
    assert_eq!(answer.await.expect("answered"), Ok(with_values));
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_the_order_of_their_urgency_and_one_that_has_begun_gives_way_at_its_next_piece() {
    // Room for less than a piece, so that nothing runs ahead of the reader.
    let (mut reader, stream) = pipe(1_000);
    let mut answerer = Answerer::on(stream);
    let classes = [Urgency::Preload, Urgency::Queued, Urgency::Playing];
    for (number, urgency) in (0..).zip(classes) {
        reader.write_all(&ask_frame(number, CHUNK, urgency)).await.expect("it is read");
        let inbound = answerer.next().await;
        tokio::spawn(inbound.responder.send(data(number as u8, 3 * MAX_PIECE_BYTES)));
        tokio::task::yield_now().await;
    }
    let mut pieces = Vec::new();
    while pieces.len() < 9 {
        if let (AnswererFrame::Piece { number, len }, body) = read_frame(&mut reader).await {
            assert_eq!(body, vec![number as u8; len], "pieces are not mixed");
            pieces.push(number);
        }
    }
    assert_eq!(pieces, [0, 2, 2, 2, 1, 1, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn questions_leave_in_the_order_of_their_urgency() {
    let (one, mut other) = pipe(1 << 20);
    let (reply, answers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
    let mut asking = Asking::new(shared(None, 1).0);
    for (urgency, reply) in [Urgency::Preload, Urgency::Queued, Urgency::Playing].into_iter().zip(reply) {
        asking.push(Question { request: request(CHUNK), exchange: Arc::new(Exchange::of(urgency)), reply });
    }
    let mut one = one;
    assert!(poll_fn(|cx| Poll::Ready(asking.poll(cx, &mut one).is_pending())).await);
    for expected in Urgency::ALL {
        let mut frame = vec![0; ask_frame(0, CHUNK, expected).len()];
        other.read_exact(&mut frame).await.expect("it was sent");
        let header = frame.first_chunk().expect("a header");
        assert!(matches!(AskerFrame::decode(header), Ok(AskerFrame::Ask { urgency, .. }) if urgency == expected));
    }
    drop(answers);
}

#[tokio::test(start_paused = true)]
async fn what_is_called_off_ends_at_once_and_the_stream_goes_on() {
    let (one, other) = pipe(4 << 10);
    let (asker, mut answerer) = (Asker::on(one), Answerer::with(other, Some(256 << 10), 256));
    let (long, called_off) = asker.ask(CHUNK, Urgency::Queued);
    let sent = tokio::spawn(answerer.next().await.responder.send(data(1, CHUNK_BYTES as usize)));
    while long.received() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    long.cancel();
    assert_eq!(called_off.await.expect("answered"), Err(AskError::Cancelled));
    let sent = sent.await.expect("it does not panic");
    assert!((1..CHUNK_BYTES / 2).contains(&sent), "{sent} bytes had left");

    // One that nobody has answered yet.
    let (unanswered, called_off) = asker.ask(CHUNK, Urgency::Queued);
    let inbound = answerer.next().await;
    unanswered.cancel();
    assert_eq!(called_off.await.expect("answered"), Err(AskError::Cancelled));
    let (_, answer) = asker.ask(Ask::Holding, Urgency::Queued);
    let other = answerer.next().await;
    assert_eq!(inbound.responder.send(data(1, 10)).await, 0, "too late");
    other.responder.send(Answer::NotHeld).await;
    assert_eq!(answer.await.expect("answered"), Ok(Answer::NotHeld));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_dropped_unanswered_ends_and_no_other() {
    let (asker, mut answerer) = connected();
    let (_, lost) = asker.ask(CHUNK, Urgency::Queued);
    let (_, kept) = asker.ask(CHUNK, Urgency::Queued);
    drop(answerer.next().await);
    assert_eq!(lost.await.expect("answered"), Err(AskError::Closed));
    answerer.next().await.responder.send(data(3, 70_000)).await;
    assert_eq!(kept.await.expect("answered"), Ok(data(3, 70_000)));
}

/// What the asker makes of a stream on which these bytes come in answer to its first question.
async fn heard(ask: Ask, bytes: &[u8]) -> (Broken, Result<Answer, AskError>) {
    let (one, mut other) = pipe(1 << 20);
    let asker = Asker::on(one);
    let (_, answer) = asker.ask(ask, Urgency::Queued);
    let mut question = vec![0; ask_frame(0, ask, Urgency::Queued).len()];
    other.read_exact(&mut question).await.expect("it is asked");
    other.write_all(bytes).await.expect("there is room");
    other.close().await.expect("it closes");
    let broken = timeout(PATIENCE, asker.task).await.expect("in time").expect("it does not panic");
    (broken, answer.await.expect("answered"))
}

fn answer_bytes(number: u32, answer: Answer, change: impl FnOnce(&mut [u8; ANSWER_HEADER_BYTES])) -> Vec<u8> {
    let mut frame = answer.into_frame().expect("it fits");
    change(&mut frame.header);
    let mut bytes = BytesMut::new();
    bytes.put_slice(&AnswererFrame::Answer { number }.encode());
    bytes.put_slice(&frame.header);
    for piece in frame.values.chunks(MAX_PIECE_BYTES).chain(frame.payload.chunks(MAX_PIECE_BYTES)) {
        bytes.put_slice(&AnswererFrame::Piece { number, len: piece.len() }.encode());
        bytes.put_slice(piece);
    }
    bytes.to_vec()
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_not_asked_for_ends_the_stream_before_memory_is_taken() {
    let is_malformed = |(broken, _): (Broken, Result<Answer, AskError>)| matches!(broken, Broken::Malformed(_));
    let good = |it: &mut [u8; ANSWER_HEADER_BYTES]| assert!(it.len() == ANSWER_HEADER_BYTES);

    let (_, answer) = heard(CHUNK, &answer_bytes(0, data(7, 100), good)).await;
    assert_eq!(answer, Ok(data(7, 100)), "an honest one");
    // Seventeen megabytes for a chunk.
    let long = answer_bytes(0, data(7, 100), |it| it[4..8].copy_from_slice(&(17u32 << 20).to_be_bytes()));
    assert!(is_malformed(heard(CHUNK, &long).await));
    // More than any holding, though a chunk may be that long.
    assert!(is_malformed(heard(Ask::Holding, &answer_bytes(0, data(7, 10_000), good)).await));
    let values = Answer::Data { segment_values: vec![1; 32].into(), bytes: vec![7; 100].into() };
    assert!(is_malformed(heard(CHUNK, &answer_bytes(0, values, good)).await));
    // Of a question that nobody has asked.
    assert!(is_malformed(heard(CHUNK, &answer_bytes(1, data(7, 100), good)).await));
    // A piece of nothing, and one byte too many.
    let piece = |len| [&AnswererFrame::Piece { number: 0, len }.encode()[..], &vec![7; len]].concat();
    assert!(is_malformed(heard(CHUNK, &piece(5)).await));
    let longer = answer_bytes(0, data(7, 100), |it| it[7] = 99);
    assert!(is_malformed(heard(CHUNK, &longer).await));
    // Answered twice.
    let twice = [answer_bytes(0, data(7, 100), |it| it[7] = 101), answer_bytes(0, data(7, 100), good)].concat();
    assert!(is_malformed(heard(CHUNK, &twice).await));
    // Cut short.
    let cut = answer_bytes(0, data(7, 100), good);
    assert_eq!(heard(CHUNK, &cut[..60]).await, (Broken::Closed, Err(AskError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_owes_bytes_and_sends_none_is_found_out_and_a_slow_one_is_not() {
    let (one, mut other) = pipe(1 << 20);
    let start = Instant::now();
    let asker = Asker::on(one);
    let (_, answer) = asker.ask(CHUNK, Urgency::Queued);
    let bytes = answer_bytes(0, data(7, 1_000), |_| {});
    // A few bytes now and then: slow, not silent.
    for piece in bytes.chunks(200) {
        tokio::time::sleep(SILENCE * 9 / 10).await;
        other.write_all(piece).await.expect("it is read");
    }
    assert_eq!(answer.await.expect("answered"), Ok(data(7, 1_000)));
    let slow = start.elapsed();
    let (_, unanswered) = asker.ask(CHUNK, Urgency::Queued);
    assert_eq!(asker.task.await.expect("it does not panic"), Broken::Silent);
    assert!(unanswered.await.is_ok_and(|it| it.is_err()));
    let waited = start.elapsed() - slow;
    assert!(waited >= SILENCE && waited < 2 * SILENCE, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_trickles_for_ever_is_found_out_too() {
    let (one, mut other) = pipe(1 << 20);
    let asker = Asker::on(one);
    let (_, answer) = asker.ask(CHUNK, Urgency::Queued);
    let trickle = tokio::spawn(async move {
        for byte in answer_bytes(0, data(7, 100_000), |_| {}) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if other.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(asker.task.await.expect("it does not panic"), Broken::Silent);
    assert!(answer.await.is_ok_and(|it| it.is_err()));
    trickle.abort();
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_reading_is_given_up_and_nothing_is_piled_up_for_it() {
    let (mut reader, stream) = pipe(1_000);
    let mut answerer = Answerer::on(stream);
    reader.write_all(&ask_frame(0, CHUNK, Urgency::Queued)).await.expect("it is read");
    let start = Instant::now();
    let sent = answerer.next().await.responder.send(data(7, CHUNK_BYTES as usize)).await;
    assert!(sent <= 1_000, "{sent} bytes went into the pipe");
    assert_eq!(answerer.task.await.expect("it does not panic"), Some(Fault::Stalled));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn half_a_question_is_not_waited_for_and_no_question_is() {
    let (mut asker, stream) = pipe(1_000);
    let answerer = Answerer::on(stream);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!answerer.task.is_finished(), "who has nothing to ask may wait");
    let trickle = tokio::spawn(async move {
        for byte in ask_frame(0, CHUNK, Urgency::Queued) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if asker.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(answerer.task.await.expect("it does not panic"), Some(Fault::Stalled));
    trickle.abort();
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_questions_that_nobody_answers_wait_at_the_askers() {
    let (mut asker, stream) = pipe(64 << 10);
    let mut answerer = Answerer::with(stream, None, 20_000);
    let flood = tokio::spawn(async move {
        for number in 0..10_000 {
            if asker.write_all(&ask_frame(number, CHUNK, Urgency::Queued)).await.is_err() {
                return;
            }
        }
    });
    let mut open = Vec::new();
    while open.len() < QUESTIONS_MAX {
        open.push(answerer.next().await);
    }
    assert!(timeout(Duration::from_secs(60), answerer.questions.recv()).await.is_err(), "no more are let in");
    assert!(!flood.is_finished());
    // One answer, one more question.
    drop(open.pop());
    open.push(answerer.next().await);
    flood.abort();
}

#[tokio::test(start_paused = true)]
async fn a_question_that_finds_the_desk_full_is_told_to_come_back() {
    let (one, other) = pipe(256 << 10);
    let (asker, mut answerer) = (Asker::on(one), Answerer::with(other, None, 1));
    let (_, first) = asker.ask(CHUNK, Urgency::Queued);
    let (_, second) = asker.ask(CHUNK, Urgency::Queued);
    assert!(matches!(second.await.expect("answered"), Ok(Answer::Busy { .. })));
    answerer.next().await.responder.send(data(1, 10)).await;
    assert_eq!(first.await.expect("answered"), Ok(data(1, 10)));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_question_ends_the_stream_with_a_fault() {
    let twice = [ask_frame(5, CHUNK, Urgency::Queued), ask_frame(5, CHUNK, Urgency::Queued)].concat();
    let mut other_version = ask_frame(0, CHUNK, Urgency::Queued);
    other_version[FRAME_HEADER_BYTES] = 9;
    for nonsense in [twice, other_version, vec![0xff; 100], AnswererFrame::Withdrawn { number: 0 }.encode().to_vec()] {
        let (mut asker, stream) = pipe(1_000);
        let answerer = Answerer::on(stream);
        asker.write_all(&nonsense).await.expect("there is room");
        let fault = timeout(PATIENCE, answerer.task).await.expect("in time").expect("it does not panic");
        assert!(matches!(fault, Some(Fault::Malformed(_))), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_share_a_limited_rate_evenly() {
    let (shared, mut questions) = shared(Some(1 << 20), 256);
    let mut answers = Vec::new();
    for device in 0..4 {
        let (one, mut other) = pipe(256 << 10);
        let (asker, shared) = (Asker::on(one), shared.clone());
        tokio::spawn(async move {
            let mut answering = Answering::new(DeviceId::from_bytes([device; 32]), shared);
            poll_fn(|cx| answering.poll(cx, &mut other)).await
        });
        // One asks for three times as much as the others.
        for _ in 0..if device == 0 { 3 } else { 1 } {
            answers.push((device, asker.ask(CHUNK, Urgency::Queued)));
            tokio::spawn(questions.recv().await.expect("asked").responder.send(data(1, CHUNK_BYTES as usize)));
        }
        // It lives on in its task until its stream ends.
        drop(asker);
    }
    let start = Instant::now();
    for (device, (_, answer)) in answers {
        answer.await.expect("answered").expect("whole");
        let took = start.elapsed();
        if device > 0 {
            assert!(took <= Duration::from_millis(6_200), "{took:?}");
        }
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(5_800), "six megabytes at one a second: {took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_given_in_any_order_and_sizes_are_whole(
        sizes in prop::collection::vec(1..200_000usize, 1..20),
        urgencies in prop::collection::vec(prop::sample::select(Urgency::ALL.to_vec()), 20),
        room in 100..300_000usize,
        backwards in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let (one, other) = pipe(room);
            let (asker, mut answerer) = (Asker::on(one), Answerer::on(other));
            let mut answers = Vec::new();
            let mut asked = Vec::new();
            for (at, urgency) in (0..sizes.len() as u32).zip(urgencies) {
                let index = ChunkIndex::new(at).expect("an index");
                answers.push(asker.ask(Ask::Chunk { index, want_segment_values: false }, urgency).1);
            }
            for _ in &sizes {
                asked.push(answerer.next().await);
            }
            if backwards {
                asked.reverse();
            }
            for inbound in asked {
                let Ask::Chunk { index, .. } = inbound.request.ask else { panic!("only chunks are asked for") };
                let answer = data(index.get() as u8, sizes[index.get() as usize]);
                tokio::spawn(inbound.responder.send(answer));
            }
            for (at, answer) in answers.into_iter().enumerate() {
                assert_eq!(answer.await.expect("answered"), Ok(data(at as u8, sizes[at])));
            }
        });
    }

    #[test]
    fn any_bytes_end_a_stream_at_worst(bytes in prop::collection::vec(any::<u8>(), 0..400), valid in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let bytes = if valid { [answer_bytes(0, data(1, 300), |_| {}), bytes].concat() } else { bytes };
            let _ = heard(CHUNK, &bytes).await;
            let (mut asker, stream) = pipe(10_000);
            let answerer = Answerer::on(stream);
            asker.write_all(&bytes).await.expect("there is room");
            asker.close().await.expect("it closes");
            timeout(PATIENCE, answerer.task).await.expect("in time").expect("it does not panic");
        });
    }
}

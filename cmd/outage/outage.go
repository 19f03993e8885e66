// Package outage logs when the API server becomes unreachable and when it answers again,
// with one line each. In between, client-go logs nothing for a watch whose connections
// are refused, and every attempt of other requests.
//
// A Monitor observes the requests of all clients of a process (Wrap), and removes the
// log lines whose error is a request without an answer (Handler). Answers of the API
// server with an error, as "forbidden", are logged by those that made the request.
//
// In memory is since when the API server has not answered, until it does.
package outage

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// SetConnectionTimeouts makes clients that are created afterwards detect a connection
// without an answer within 15 s instead of 45 s: watches are silent for up to a minute,
// so that only HTTP/2 pings show that packets are lost. The variables of the environment
// for these timeouts, which client-go reads, have precedence.
func SetConnectionTimeouts() error {
	for name, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if _, set := os.LookupEnv(name); !set {
			if err := os.Setenv(name, seconds); err != nil {
				return err
			}
		}
	}
	return nil
}

// Monitor logs when the API server becomes unreachable and when it answers again. All
// methods may be called concurrently.
type Monitor struct {
	handler slog.Handler
	log     *slog.Logger

	mu         sync.Mutex
	hosts      map[string]bool // with which a request failed
	failing    bool
	failedAt   time.Time // when the first request of the outage failed
	answeredAt time.Time // when the last outage ended

	lastContact atomic.Int64 // in nanoseconds since the Unix epoch
}

// New returns a Monitor that logs to the handler.
func New(handler slog.Handler) *Monitor {
	m := &Monitor{handler: handler, log: slog.New(handler), hosts: map[string]bool{}}
	m.recordContact()
	return m
}

// Wrap returns a transport that observes the requests sent with next. It is a
// transport.WrapperFunc, for rest.Config.Wrap.
func (m *Monitor) Wrap(next http.RoundTripper) http.RoundTripper { return &observedTransport{m, next} }

type observedTransport struct {
	monitor *Monitor
	next    http.RoundTripper
}

// RoundTrip sends the request.
func (t *observedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := time.Now()
	response, err := t.next.RoundTrip(r)
	switch {
	case err == nil:
		t.monitor.recordAnswer(sent)
		if response.StatusCode != http.StatusSwitchingProtocols { // whose body must be a writer as well
			response.Body = &observedBody{response.Body, t.monitor, r}
		}
	case r.Context().Err() != nil: // the caller no longer needs an answer, or one request takes long, as a slow webhook's
	default:
		t.monitor.recordFailure(r.URL.Host, sent, err)
	}
	return response, err
}

// WrappedRoundTripper returns the transport that this one wraps; see
// utilnet.RoundTripperWrapper.
func (t *observedTransport) WrappedRoundTripper() http.RoundTripper { return t.next }

// observedBody is the body of a response, which ends late for a watch.
type observedBody struct {
	io.ReadCloser
	monitor *Monitor
	request *http.Request
}

// Read reads from the body. A connection that the HTTP/2 client has closed because a ping
// was not answered is an outage. For all others a closed connection is not: the next
// request shows whether the API server can be reached. A watch then ends without a log
// line of client-go, whatever closed its connection.
func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.monitor.recordContact()
	}
	if err == nil || errors.Is(err, io.EOF) || b.request.Context().Err() != nil {
		return n, err
	}
	if utilnet.IsHTTP2ConnectionLost(err) {
		b.monitor.recordFailure(b.request.URL.Host, time.Now(), err)
	}
	if b.request.URL.Query().Has("watch") {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// recordFailure records that a request was not answered.
func (m *Monitor) recordFailure(host string, sent time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts[host] = true
	if m.failing || sent.Before(m.answeredAt) { // a request of the last outage
		return
	}
	m.failing, m.failedAt = true, time.Now()
	m.log.Warn("API server unreachable", "host", host, "error", err)
}

// recordAnswer records that a request was answered, even if with an error.
func (m *Monitor) recordAnswer(sent time.Time) {
	m.recordContact()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.failing || sent.Before(m.failedAt) { // an answer that was under way
		return
	}
	m.failing, m.answeredAt = false, time.Now()
	m.log.Info("API server reachable again", "after", m.answeredAt.Sub(m.failedAt).Round(time.Millisecond))
}

func (m *Monitor) recordContact() { m.lastContact.Store(time.Now().UnixNano()) }

// LastContact returns when the API server last answered a request or sent a part of a
// response, such as the events and bookmarks of a watch; when the Monitor was created, if
// never.
func (m *Monitor) LastContact() time.Time { return time.Unix(0, m.lastContact.Load()) }

// IsFailing reports whether the API server does not answer.
func (m *Monitor) IsFailing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failing
}

// Handler returns the handler of New without the lines whose error is only that the API
// server did not answer, because the Monitor logs that.
func (m *Monitor) Handler() slog.Handler { return &filter{m, m.handler} }

// isReported reports whether err consists of nothing but requests that were not answered.
func (m *Monitor) isReported(err error) bool {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		all := several.Unwrap()
		for _, e := range all {
			if !m.isReported(e) {
				return false
			}
		}
		return len(all) > 0
	}
	if failed, ok := err.(*url.Error); ok { // of http.Client, for requests without an answer
		u, parseErr := url.Parse(failed.URL)
		m.mu.Lock()
		defer m.mu.Unlock()
		ended := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) // by the caller
		return parseErr == nil && m.hosts[u.Host] && !ended
	}
	inner := errors.Unwrap(err)
	return inner != nil && m.isReported(inner)
}

// filter is a handler without the lines that report an outage another time.
type filter struct {
	monitor *Monitor
	next    slog.Handler
}

func (f *filter) Enabled(ctx context.Context, level slog.Level) bool {
	return f.next.Enabled(ctx, level)
}

func (f *filter) Handle(ctx context.Context, r slog.Record) error {
	reported := false
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Resolve().Any().(error); ok {
			reported = f.monitor.isReported(err)
		}
		return !reported
	})
	if reported {
		return nil
	}
	return f.next.Handle(ctx, r)
}

func (f *filter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &filter{f.monitor, f.next.WithAttrs(attrs)}
}

func (f *filter) WithGroup(name string) slog.Handler {
	return &filter{f.monitor, f.next.WithGroup(name)}
}

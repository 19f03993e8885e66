package outage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead-io/fairlead/cmd/outage"
)

// timeout bounds waits for conditions.
const timeout = time.Minute

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) count(text string) int { return strings.Count(b.String(), text) }

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s", timeout, what)
		}
	}
}

// apiServer is a server for HTTP/2 with TLS that can be stopped and started again at the
// same address.
type apiServer struct {
	t         *testing.T
	addr      string
	server    *httptest.Server
	forbidden atomic.Bool  // it refuses all requests
	watches   atomic.Int64 // that are open
	failures  atomic.Int64 // requests without an answer
}

func (a *apiServer) start() {
	a.t.Helper()
	if a.addr == "" {
		a.addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", a.addr)
	if err != nil {
		a.t.Fatal(err)
	}
	a.addr = l.Addr().String()
	a.server = httptest.NewUnstartedServer(a)
	_ = a.server.Listener.Close()
	a.server.Listener, a.server.EnableHTTP2 = l, true
	a.server.StartTLS()
}

// stop closes the listener and all connections, as the end of the process does.
func (a *apiServer) stop() {
	_ = a.server.Listener.Close()
	a.server.CloseClientConnections()
}

// ServeHTTP answers as an API server without objects.
func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	kind := map[string]string{"services": "Service", "nodes": "Node"}[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
	switch {
	case a.forbidden.Load():
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not permitted","reason":"Forbidden","code":403}`)
	case r.URL.Query().Get("watch") != "":
		fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":%q,"apiVersion":"v1","metadata":{"resourceVersion":"1",`+
			`"annotations":{"k8s.io/initial-events-end":"true"}}}}`, kind)
		w.(http.Flusher).Flush()
		a.watches.Add(1)
		defer a.watches.Add(-1)
		<-r.Context().Done()
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no such object","reason":"NotFound","code":404}`)
	}
}

// countingTransport counts failed requests.
type countingTransport struct {
	http.RoundTripper
	failures *atomic.Int64
}

func (c countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		c.failures.Add(1)
	}
	return response, err
}

// TestOutage checks, with the clients that our programs have, that outages are logged with
// one line each when they begin and when they end, and errors that the API server answers
// with as usual.
func TestOutage(t *testing.T) {
	var log logBuffer
	monitor := outage.New(slog.NewTextHandler(&log, nil))
	logger := slog.New(monitor.Handler())
	klog.SetSlogLogger(logger)
	t.Cleanup(klog.ClearLogger)
	api := &apiServer{t: t}
	api.start()
	defer func() { api.stop() }()

	config := &rest.Config{Host: "https://" + api.addr, QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return countingTransport{next, &api.failures} })
	config.Wrap(monitor.Wrap)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	factory := informers.NewSharedInformerFactory(client, 0)
	factory.Core().V1().Services().Informer()
	factory.Core().V1().Nodes().Informer()
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer cancel()
	running.Go(func() { writeRepeatedly(ctx, client, logger) })
	running.Go(func() { elect(ctx, t, client) })
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{})

	for outages := range 2 {
		eventually(t, "the caches are synced", func() bool { return len(factory.WaitForCacheSync(ctx.Done())) == 2 })
		// Other errors are logged. They also show that all clients have an answer.
		eventually(t, "all watches are open", func() bool { return api.watches.Load() == 2 })
		time.Sleep(1500 * time.Millisecond) // client-go logs watches that end within a second
		answers := log.String()
		eventually(t, "errors of the API server are logged", func() bool {
			since := strings.TrimPrefix(log.String(), answers)
			return strings.Contains(since, "write failed") && strings.Contains(since, "creating lease lock")
		})
		api.stop()
		recorder.Event(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b"}}, corev1.EventTypeNormal, "R", "m")
		eventually(t, "the outage is logged", func() bool { return log.count("API server unreachable") > outages })
		failures := api.failures.Load()
		eventually(t, "many requests have failed", func() bool { return api.failures.Load() > failures+50 })
		api.forbidden.Store(outages == 1)
		api.start()
		eventually(t, "the end of the outage is logged", func() bool { return log.count("API server reachable again") > outages })
	}
	eventually(t, "forbidden watches are logged", func() bool { return log.count("Failed to watch") >= 2 })
	eventually(t, "forbidden writes are logged", func() bool {
		return log.count(`write failed, retrying" error="write: not permitted"`) > 0
	})
	eventually(t, "a forbidden lease is logged", func() bool { return log.count("rror retrieving") > 0 })
	for _, text := range []string{"API server unreachable", "API server reachable again"} {
		if got := log.count(text); got != 2 {
			t.Errorf("%q is logged %d times, want once per outage:\n%s", text, got, log.String())
		}
	}
	// All other lines are about answers.
	answers := []string{"API server unreachable", "API server reachable again", "no such object", "not permitted", "Attempting to acquire"}
	for line := range strings.Lines(log.String()) {
		if !slices.ContainsFunc(answers, func(text string) bool { return strings.Contains(line, text) }) {
			t.Errorf("logged in addition: %.300s", line)
		}
	}
}

// writeRepeatedly writes as our programs do: an error is logged and the write retried.
func writeRepeatedly(ctx context.Context, client kubernetes.Interface, log *slog.Logger) {
	for ctx.Err() == nil {
		_, err := client.CoreV1().Nodes().UpdateStatus(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.UpdateOptions{})
		if err != nil && ctx.Err() == nil {
			log.Warn("write failed, retrying", "error", fmt.Errorf("write: %w", err))
			log.Warn("writes failed, retrying", "error", errors.Join(fmt.Errorf("write: %w", err), fmt.Errorf("write: %w", err)))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// elect takes part in a leader election.
func elect(ctx context.Context, t *testing.T, client kubernetes.Interface) {
	identity := resourcelock.ResourceLockConfig{Identity: "me"}
	lock, err := resourcelock.New("leases", "n", "l", client.CoreV1(), client.CoordinationV1(), identity)
	if err != nil {
		t.Error(err)
		return
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 50 * time.Millisecond,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
	})
	if err != nil {
		t.Error(err)
		return
	}
	elector.Run(ctx)
}

// TestOtherErrors checks that a request that the caller ends is not an outage, and its error
// is not omitted, and that an error is only omitted if all its causes are.
func TestOtherErrors(t *testing.T) {
	var log logBuffer
	monitor := outage.New(slog.NewTextHandler(&log, nil))
	logger := slog.New(monitor.Handler())
	api := &apiServer{t: t}
	api.start()
	client := &http.Client{Transport: monitor.Wrap(api.server.Client().Transport)}
	ctx, cancel := context.WithCancel(t.Context())
	get := func(url string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	}
	cancel()
	canceled := get("https://" + api.addr)
	logger.Info("canceled", "error", canceled)
	api.stop()
	ctx = t.Context()
	failed := get("https://" + api.addr)
	otherServer := &apiServer{t: t}
	otherServer.start()
	otherServer.stop()
	response, elsewhere := http.Get("https://" + otherServer.addr)
	if elsewhere == nil {
		_ = response.Body.Close()
	}
	logger.Info("omitted", "error", fmt.Errorf("a: %w", failed))
	logger.Info("omitted", "error", errors.Join(failed, fmt.Errorf("b: %w", failed)))
	logger.With("key", "value").WithGroup("group").Info("omitted", "error", failed)
	logger.Info("another error", "error", errors.Join(failed, errors.New("another")))
	logger.Info("another server", "error", elsewhere)
	logger.Info("no error", "error", "text")
	for text, want := range map[string]int{
		"API server unreachable": 1, "canceled": 2, "omitted": 0, "another error": 1, "another server": 1, "no error": 1,
	} {
		if got := log.count(text); got != want {
			t.Errorf("%q is logged %d times, want %d:\n%s", text, got, want, log.String())
		}
	}
}

// TestConnectionTimeouts checks that the environment has precedence.
func TestConnectionTimeouts(t *testing.T) {
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "7")
	t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "") // so that the test restores it
	if err := os.Unsetenv("HTTP2_PING_TIMEOUT_SECONDS"); err != nil {
		t.Fatal(err)
	}
	if err := outage.SetConnectionTimeouts(); err != nil {
		t.Fatal(err)
	}
	if a, b := os.Getenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS"), os.Getenv("HTTP2_PING_TIMEOUT_SECONDS"); a != "7" || b != "5" {
		t.Errorf("the timeouts are %s and %s", a, b)
	}
}

// lossyProxy forwards connections, until it drops all packets like a failed network: no
// connection is closed.
type lossyProxy struct {
	net.Listener
	backend string
	drops   atomic.Bool
}

func (p *lossyProxy) run() {
	for {
		client, err := p.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.backend)
		if err != nil {
			_ = client.Close()
			continue
		}
		go p.forward(client, server)
		go p.forward(server, client)
	}
}

func (p *lossyProxy) forward(from, to net.Conn) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if !p.drops.Load() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

// TestPacketLoss checks that an outage is logged even if no connection is closed and there
// is no request but the watches.
func TestPacketLoss(t *testing.T) {
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "1")
	t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "1")
	var log logBuffer
	monitor := outage.New(slog.NewTextHandler(&log, nil))
	klog.SetSlogLogger(slog.New(monitor.Handler()))
	t.Cleanup(klog.ClearLogger)
	api := &apiServer{t: t}
	api.start()
	defer api.stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	proxy := &lossyProxy{Listener: l, backend: api.addr}
	go proxy.run()
	// client-go shares connections of clients with the same TLS configuration.
	tls := rest.TLSClientConfig{Insecure: true, ServerName: "lossy"}
	config := &rest.Config{Host: "https://" + l.Addr().String(), TLSClientConfig: tls}
	config.Wrap(monitor.Wrap)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	factory.Core().V1().Services().Informer()
	factory.Core().V1().Nodes().Informer()
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer cancel()
	eventually(t, "all watches are open", func() bool { return api.watches.Load() == 2 })
	time.Sleep(1500 * time.Millisecond) // client-go logs watches that end within a second
	proxy.drops.Store(true)
	eventually(t, "the outage is logged", func() bool { return log.count("API server unreachable") > 0 })
	proxy.drops.Store(false)
	eventually(t, "the end of the outage is logged", func() bool { return log.count("API server reachable again") > 0 })
	if lines := strings.Count(log.String(), "\n"); lines != 2 || log.count("client connection lost") != 1 {
		t.Errorf("want two lines:\n%s", log.String())
	}
}

// TestLastContact checks that answers and parts of a response count as contact with the API
// server, and failed requests do not.
func TestLastContact(t *testing.T) {
	monitor := outage.New(slog.DiscardHandler)
	parts := make(chan string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for part := range parts {
			fmt.Fprint(w, part)
			w.(http.Flusher).Flush()
		}
	}))
	defer server.Close()
	client := &http.Client{Transport: monitor.Wrap(http.DefaultTransport)}
	last := monitor.LastContact()
	if since := time.Since(last); since < 0 || since > timeout {
		t.Errorf("the first contact was %s ago", since)
	}
	advanced := func(what string, want bool) {
		t.Helper()
		if now := monitor.LastContact(); now.After(last) != want {
			t.Errorf("%s: the last contact is at %s, before at %s", what, now, last)
		} else {
			last = now
		}
	}
	go func() { parts <- "first" }()
	response, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	advanced("answer", true)
	for _, part := range []string{"first", "second"} {
		if part == "second" {
			parts <- part
		}
		if n, err := response.Body.Read(make([]byte, len(part))); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		advanced(part, true)
	}
	close(parts)
	server.Close()
	if _, err := client.Get(server.URL); err == nil {
		t.Error("a request to a closed server succeeded")
	}
	advanced("failure", false)
}

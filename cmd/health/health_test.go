package health

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// TestProbe: a probe fails exactly if the program is not ready or does not run, and
// reports why. A socket that a killed process has left is replaced.
func TestProbe(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "health.sock")
	killed, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	killed.SetUnlinkOnClose(false)
	_ = killed.Close()
	if err := Probe(t.Context(), socket, "healthz", io.Discard); err == nil {
		t.Error("a probe of a killed process succeeded")
	}
	var reasons, warnings atomic.Pointer[[]string]
	reasons.Store(&[]string{"first", "second"})
	warnings.Store(&[]string{"third"})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, socket, Checks{
			NotReady: func() []string { return *reasons.Load() }, Warnings: func() []string { return *warnings.Load() },
		})
	}()
	eventually(t, "healthz", func() error { return Probe(ctx, socket, "healthz", io.Discard) })
	var out strings.Builder
	if err := Probe(ctx, socket, "/readyz", &out); err == nil || out.String() != "not ready: first\nnot ready: second\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	reasons.Store(&[]string{})
	out.Reset()
	if err := Probe(ctx, socket, "readyz", &out); err != nil || out.String() != "ok\nwarning: third\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if err := Probe(ctx, socket, "other", io.Discard); err == nil {
		t.Error("a probe of another path succeeded")
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket was not removed")
	}
	if err := Serve(t.Context(), "/proc/health.sock", Checks{}); err == nil || !strings.Contains(err.Error(), "--health-socket") {
		t.Errorf("got %v", err)
	}
}

// TestListener: a port that another program holds is used as soon as it is free.
func TestListener(t *testing.T) {
	before := firstRetry
	firstRetry = 10 * time.Millisecond
	defer func() { firstRetry = before }()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	var failures atomic.Int32
	l, err := Listen("tcp", other.Addr().String(), slog.New(slog.NewTextHandler(&log, nil)), func() { failures.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	if l.Addr().String() != other.Addr().String() {
		t.Errorf("the address is %s", l.Addr())
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ours") })}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	eventually(t, "three attempts", func() error {
		if n := failures.Load(); n < 3 {
			return io.ErrNoProgress
		}
		return nil
	})
	_ = other.Close()
	eventually(t, "a response", func() error {
		response, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
	_ = server.Close()
	if err := <-done; err != http.ErrServerClosed {
		t.Errorf("got %v", err)
	}
	if n := strings.Count(log.String(), "another program listens on it"); n != 1 || !strings.Contains(log.String(), "listening started") {
		t.Errorf("the log is %s", log.String())
	}

	// Close ends an Accept that waits for the port.
	if other, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if l, err = Listen("tcp", other.Addr().String(), slog.New(slog.DiscardHandler), func() {}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := l.Accept()
		done <- err
	}()
	_ = l.Close()
	if err := <-done; err == nil {
		t.Error("a closed listener accepted a connection")
	}
	if _, err := Listen("tcp", "nonsense", slog.New(slog.DiscardHandler), func() {}); err == nil {
		t.Error("an invalid address was accepted")
	}
}

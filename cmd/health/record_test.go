package health

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

// TestRecordFailure: while another program listens on the port, an Event of the Pod
// reports it, repeatedly with the same text, and one when it is over. Without a failure
// there is none.
func TestRecordFailure(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := other.Addr().String()
	listener := func() *Listener {
		l, err := Listen("tcp", address, slog.New(slog.DiscardHandler), func() {})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	t.Setenv("POD_NAMESPACE", "fairlead-system")
	t.Setenv("POD_NAME", "")
	if pod := OwnPod(); pod != nil {
		t.Errorf("the pod is %v without its name", pod)
	}
	t.Setenv("POD_NAME", "fairlead-controller-x")
	t.Setenv("POD_UID", "uid-x")
	pod := OwnPod()
	if pod == nil || pod.Namespace != "fairlead-system" || pod.Name != "fairlead-controller-x" || pod.UID != "uid-x" {
		t.Fatalf("the pod is %v", pod)
	}
	events := record.NewFakeRecorder(1000)
	events.IncludeObject = true
	next := func() string {
		select {
		case e := <-events.Events:
			return e
		case <-time.After(30 * time.Second):
			t.Fatal("no Event was recorded")
			return ""
		}
	}
	l := listener()
	go func() { _, _ = l.Accept() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.RecordFailure(t.Context(), events, pod, 10*time.Millisecond)
	}()
	want := "Warning ListenFailed metrics are not served: listen tcp " + address + ": another program listens on it; retrying"
	first := next()
	if !strings.HasPrefix(first, want) || !strings.Contains(first, "kind=Pod") {
		t.Errorf("got %q, want %q", first, want)
	}
	if second := next(); second != first {
		t.Errorf("the Event %q is followed by %q", first, second)
	}
	_ = other.Close()
	last := ""
	for last = next(); last == first; last = next() {
	}
	if !strings.HasPrefix(last, "Normal Listening metrics are served on "+address) {
		t.Errorf("got %q", last)
	}
	<-done
	_ = l.Close()

	l = listener()
	l.RecordFailure(t.Context(), events, pod, time.Hour)
	if len(events.Events) > 0 {
		t.Errorf("recorded %q", <-events.Events)
	}
	// An end of the process ends the wait.
	_ = l.Close()
	if other, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	listener().RecordFailure(ctx, events, &corev1.ObjectReference{}, time.Hour)
}

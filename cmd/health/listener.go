package health

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"k8s.io/component-base/metrics"
)

// ListenFailures counts the failed attempts of a program to listen on the port of its
// metrics. The program registers it.
var ListenFailures = metrics.NewCounter(&metrics.CounterOpts{
	Name:           "fairlead_listen_failures_total",
	Help:           "Failed attempts to listen on the port of the metrics, as when another program on the host listens on it.",
	StabilityLevel: metrics.ALPHA,
})

// firstRetry and lastRetry bound the backoff after a failed attempt to listen. They
// are variables for tests.
var firstRetry, lastRetry = time.Second, 30 * time.Second

// FailureInterval is the interval at which a program reports that a Listener cannot
// listen. A report that is much older is about a program that has ended.
const FailureInterval = 5 * time.Minute

// Listener listens on a TCP address as soon as it is free: until then Accept blocks,
// and retries with backoff. Its methods may be called concurrently.
type Listener struct {
	network string
	addr    *net.TCPAddr
	log     *slog.Logger
	failed  func()

	done    chan struct{} // closed by Close
	once    sync.Once
	started chan struct{} // closed when inner is set

	mu      sync.Mutex
	inner   net.Listener // nil while the address is not free
	failure string       // why it is not
}

// Listen returns a Listener. It is an error if the address is invalid. failed is called
// after each failed attempt.
func Listen(network, address string, log *slog.Logger, failed func()) (*Listener, error) {
	addr, err := net.ResolveTCPAddr(network, address)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", address, err)
	}
	l := &Listener{network: network, addr: addr, log: log, failed: failed, done: make(chan struct{}), started: make(chan struct{})}
	_ = l.listen()
	return l, nil
}

// listen attempts to listen, unless it already does.
func (l *Listener) listen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner != nil {
		return nil
	}
	inner, err := net.ListenTCP(l.network, l.addr)
	if err != nil {
		l.failure = err.Error()
		if errors.Is(err, syscall.EADDRINUSE) {
			l.failure = fmt.Sprintf("listen %s %s: another program listens on it", l.network, l.addr)
		}
		l.failed()
		return err
	}
	select {
	case <-l.done:
		_ = inner.Close()
		return net.ErrClosed
	default:
		l.inner = inner
		close(l.started)
	}
	return nil
}

// Started returns a channel that is closed when the listener listens.
func (l *Listener) Started() <-chan struct{} { return l.started }

// Failure returns why the last attempt to listen failed.
func (l *Listener) Failure() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Accept waits until the address is free, and returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	wait, logged := firstRetry, false
	for {
		err := l.listen()
		if err == nil {
			break
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if !logged {
			l.log.Warn("listening failed, retrying", "reason", l.Failure())
			logged = true
		}
		select {
		case <-l.done:
			return nil, net.ErrClosed
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
	}
	if logged {
		l.log.Info("listening started", "address", l.addr.String())
	}
	return l.inner.Accept()
}

// Close closes the listener. A blocked Accept returns.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner == nil {
		return nil
	}
	return l.inner.Close()
}

// Addr returns the address that the listener listens on, or will listen on.
func (l *Listener) Addr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner == nil {
		return l.addr
	}
	return l.inner.Addr()
}

// Package metricsserver serves the metrics of a program over TLS, to clients that
// Kubernetes authenticates by a TokenReview and permits by a SubjectAccessReview to get
// the non-resource URL /metrics.
//
// It is for a program on the host network, where every pod can connect to the port. The
// rate of connections is limited, each has one request, and none waits for longer than
// a few seconds, so that a flood takes little of the node's CPU time and memory. The rate
// of reviews for clients that were not permitted before is limited, too.
//
// server.go serves, review.go decides about clients. The packages of k8s.io/apiserver for
// both would double the memory that a speaker needs.
//
// In memory are the hashes of the tokens of permitted clients, for an hour, because the API
// server may not answer meanwhile; and a self-signed certificate, until the process ends.
package metricsserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
)

const (
	// path is the URL that is served, and that clients must be permitted to get.
	path = "/metrics"

	// connectionRate is how many connections are accepted per second, connectionBurst how
	// many at once, and maxConnections how many may be open at the same time.
	connectionRate, connectionBurst, maxConnections = 20, 20, 64

	// requestTimeout bounds the TLS handshake and the request, and responseTimeout
	// everything from the handshake on.
	requestTimeout, responseTimeout = 5 * time.Second, 15 * time.Second

	// maxHeaderBytes is enough for a token.
	maxHeaderBytes = 16 << 10
)

// Serve serves the metrics of the handler to the clients of the listener, until ctx ends.
// While the API server does not answer, it refuses clients that were not permitted before.
func Serve(ctx context.Context, listener net.Listener, client kubernetes.Interface, metrics http.Handler, log *slog.Logger) error {
	defer listener.Close()
	mux := http.NewServeMux()
	mux.Handle("GET "+path, newReviewer(client).handler(metrics))
	certificate, err := newCertificate()
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	server := &http.Server{
		Handler: mux, ReadTimeout: requestTimeout, WriteTimeout: responseTimeout, MaxHeaderBytes: maxHeaderBytes,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		Protocols: new(http.Protocols),                               // without HTTP/2: its connections have many requests
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug), // of connections
	}
	server.Protocols.SetHTTP1(true)
	server.SetKeepAlivesEnabled(false)
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	limited := &rateLimitedListener{
		Listener: netutil.LimitListener(listener, maxConnections), ctx: ctx, limiter: rate.NewLimiter(connectionRate, connectionBurst),
	}
	if err := server.ServeTLS(limited, "", ""); err != nil && ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// newCertificate returns a self-signed certificate.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("generate a key: %w", err)
	}
	c, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "fairlead"}, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("create a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}, nil
}

// rateLimitedListener limits the rate of connections, until ctx ends.
type rateLimitedListener struct {
	net.Listener
	ctx     context.Context
	limiter *rate.Limiter
}

// Accept waits until the rate permits another connection, and returns the next one.
func (l *rateLimitedListener) Accept() (net.Conn, error) {
	if err := l.limiter.Wait(l.ctx); err != nil {
		return nil, net.ErrClosed
	}
	return l.Listener.Accept()
}

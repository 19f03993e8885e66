package aws

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The services as IAM spells them.
const (
	serviceEC2 = "ec2"
	serviceELB = "elasticloadbalancing"
)

// calledActions are the actions of all providers under test, in the notation of
// IAM ("elasticloadbalancing:CreateListener"): the policy must allow them.
var calledActions = struct {
	sync.Mutex
	actions map[string]bool
}{actions: map[string]bool{}}

func actionsSeen() []string {
	calledActions.Lock()
	defer calledActions.Unlock()
	return slices.Sorted(maps.Keys(calledActions.actions))
}

// callRecorder is between a provider under test and its account: it records the
// attempts in order, and fails some of them.
type callRecorder struct {
	mu     sync.Mutex
	log    []string
	faults []*fault
}

// fault fails the next calls that match it.
type fault struct {
	action string // "" is any
	after  int    // number of matching calls that succeed first
	times  int    // number of calls that fail; 0 is one
	kind   faultKind
}

// forever is the number of times of a fault that only reset ends.
const forever = 1 << 30

// faultKind is the way in which a call fails.
type faultKind struct {
	name   string
	status int
	code   string
	lost   bool // the call takes effect
}

var (
	throttle   = faultKind{name: "throttle"}                // the code depends on the service
	lostAnswer = faultKind{name: "lost answer", lost: true} // the call takes effect, but the connection is closed before the response
	unreached  = faultKind{name: "unreached"}               // the connection fails; with forever, as after a kill of the process
)

func clientError(code string) faultKind {
	return faultKind{name: code, status: http.StatusForbidden, code: code}
}

func serverError(status int) faultKind {
	return faultKind{name: fmt.Sprint(status), status: status, code: "InternalFailure"}
}

// record records a call, and returns how it fails, or nil.
func (w *callRecorder) record(service, action string) *faultKind {
	calledActions.Lock()
	calledActions.actions[service+":"+action] = true
	calledActions.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, action)
	for _, f := range w.faults {
		switch {
		case f.action != "" && f.action != action || f.times == 0:
		case f.after > 0:
			f.after--
		default:
			f.times--
			return &f.kind
		}
	}
	return nil
}

func (w *callRecorder) fail(f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f.times = max(f.times, 1)
	w.faults = append(w.faults, &f)
}

// reset deletes the recorded calls and the remaining faults.
func (w *callRecorder) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log, w.faults = nil, nil
}

func (w *callRecorder) calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// writes returns the calls that can change something.
func (w *callRecorder) writes() []string {
	return slices.DeleteFunc(w.calls(), func(action string) bool { return strings.HasPrefix(action, "Describe") })
}

// response is the client's response instead of the service's.
func (k faultKind) response(service string) (*http.Response, error) {
	switch {
	case k.lost || k.name == unreached.name:
		return nil, io.ErrUnexpectedEOF
	case k.name == throttle.name && service == serviceEC2:
		return errorResponse(service, http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded."), nil
	case k.name == throttle.name:
		return errorResponse(service, http.StatusBadRequest, "Throttling", "Rate exceeded"), nil
	}
	return errorResponse(service, k.status, k.code, "injected by the test"), nil
}

// errorResponse is an error in the wire format of the service.
func errorResponse(service string, status int, code, message string) *http.Response {
	format := `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error>` +
		`<RequestId>test</RequestId></ErrorResponse>`
	if service == serviceEC2 {
		format = `<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>test</RequestID></Response>`
	}
	body := fmt.Sprintf(format, code, message)
	return &http.Response{
		StatusCode: status,
		ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"text/xml"}},
		ContentLength: int64(len(body)),
		Body:          io.NopCloser(strings.NewReader(body)),
	}
}

// startProxy starts a proxy in front of a server, and returns its address,
// which serves one account.
func (w *callRecorder) startProxy(t *testing.T, server *url.URL, account string) string {
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			r.Out.Host = r.In.Host
			r.Out.Header.Set("x-moto-account-id", account)
		},
		Transport: &proxyTransport{wire: w, lost: map[string][]byte{}},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // closes the connection
		},
	}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return s.URL
}

// proxyTransport is the transport of a proxy.
type proxyTransport struct {
	wire *callRecorder
	mu   sync.Mutex
	// lost are responses to creates that the client did not receive, by the request.
	// AWS returns the existing object for a repeated create with the same settings.
	// moto returns an error or creates another object, so the proxy responds instead.
	lost map[string][]byte
}

var idempotent = []string{"CreateLoadBalancer", "CreateTargetGroup", "CreateListener"}

func (t *proxyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(sent))
	if err != nil {
		return nil, err
	}
	service, action := serviceELB, form.Get("Action")
	if strings.Contains(r.Header.Get("Authorization"), "/ec2/") {
		service = serviceEC2
	}
	failing := t.wire.record(service, action)
	if failing != nil && !failing.lost {
		return failing.response(service)
	}
	response, err := t.forward(r, sent, action)
	if err != nil || failing == nil {
		return response, err
	}
	if answer, err := io.ReadAll(response.Body); err != nil {
		return nil, err
	} else if slices.Contains(idempotent, action) && response.StatusCode == http.StatusOK {
		t.mu.Lock()
		t.lost[string(sent)] = answer
		t.mu.Unlock()
	}
	return nil, errors.Join(response.Body.Close(), io.ErrUnexpectedEOF)
}

func (t *proxyTransport) forward(r *http.Request, sent []byte, action string) (*http.Response, error) {
	t.mu.Lock()
	answer := t.lost[string(sent)]
	if strings.HasPrefix(action, "Delete") {
		clear(t.lost)
	}
	t.mu.Unlock()
	if answer != nil {
		return &http.Response{
			StatusCode: http.StatusOK,
			Header:     http.Header{"Content-Type": {"text/xml"}},
			Body:       io.NopCloser(bytes.NewReader(answer)),
		}, nil
	}
	r.Body = io.NopCloser(bytes.NewReader(sent))
	return http.DefaultTransport.RoundTrip(r)
}

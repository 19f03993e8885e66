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

// seen is every action that any provider under test sent to any account, as
// IAM spells it ("elasticloadbalancing:CreateListener"): what a policy must
// allow.
var seen = struct {
	sync.Mutex
	actions map[string]bool
}{actions: map[string]bool{}}

func actionsSeen() []string {
	seen.Lock()
	defer seen.Unlock()
	return slices.Sorted(maps.Keys(seen.actions))
}

// wire is between a provider under test and its account: it lists the attempts
// in order, and lets some of them fail.
type wire struct {
	mu     sync.Mutex
	log    []string
	faults []*fault
}

// fault is what happens to the next calls that match it.
type fault struct {
	action string // "" is any
	after  int    // so many matching calls pass first
	times  int    // so many fail; 0 is one
	kind   kind
}

// forever is the times of a fault that only reset ends.
const forever = 1 << 30

// kind is how a call fails.
type kind struct {
	name   string
	status int
	code   string
	lost   bool // the call takes effect; otherwise it does not
}

var (
	throttle   = kind{name: "throttle"}                // each service has a code of its own for it
	lostAnswer = kind{name: "lost answer", lost: true} // done, but the connection breaks before the answer
	unreached  = kind{name: "unreached"}               // nobody is reached; with forever, a process killed here
)

func clientError(code string) kind {
	return kind{name: code, status: http.StatusForbidden, code: code}
}

func serverError(status int) kind {
	return kind{name: fmt.Sprint(status), status: status, code: "InternalFailure"}
}

// call lists a call, and says how it fails, nil if it does not.
func (w *wire) call(service, action string) *kind {
	seen.Lock()
	seen.actions[service+":"+action] = true
	seen.Unlock()
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

func (w *wire) fail(f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f.times = max(f.times, 1)
	w.faults = append(w.faults, &f)
}

// reset forgets the calls, and ends the faults that have not happened yet.
func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log, w.faults = nil, nil
}

func (w *wire) calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// writes are the calls that can change something.
func (w *wire) writes() []string {
	return slices.DeleteFunc(w.calls(), func(action string) bool { return strings.HasPrefix(action, "Describe") })
}

// answer is what the client gets instead of the service's answer.
func (k kind) answer(service string) (*http.Response, error) {
	switch {
	case k.lost || k.name == unreached.name:
		return nil, io.ErrUnexpectedEOF
	case k.name == throttle.name && service == serviceEC2:
		return errorAnswer(service, http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded."), nil
	case k.name == throttle.name:
		return errorAnswer(service, http.StatusBadRequest, "Throttling", "Rate exceeded"), nil
	}
	return errorAnswer(service, k.status, k.code, "injected by the test"), nil
}

// errorAnswer is an error as the service writes it on the wire.
func errorAnswer(service string, status int, code, message string) *http.Response {
	format := `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>test</RequestId></ErrorResponse>`
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

// proxy puts a wire in front of a server: the address that it returns answers
// for one account.
func (w *wire) proxy(t *testing.T, server *url.URL, account string) string {
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			r.Out.Host = r.In.Host
			r.Out.Header.Set("x-moto-account-id", account)
		},
		Transport: &tap{wire: w, lost: map[string][]byte{}},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // closes the connection, which is what the client is to see
		},
	}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return s.URL
}

// tap is the transport of a proxy.
type tap struct {
	wire *wire
	mu   sync.Mutex
	// lost are answers to creates that the client has not got, by the form that
	// was sent. AWS answers a repeated create with what it made, if the settings
	// are the same. Moto refuses, or makes a second one, so the tap answers in
	// its place.
	lost map[string][]byte
}

var idempotent = []string{"CreateLoadBalancer", "CreateTargetGroup", "CreateListener"}

func (t *tap) RoundTrip(r *http.Request) (*http.Response, error) {
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
	failing := t.wire.call(service, action)
	if failing != nil && !failing.lost {
		return failing.answer(service)
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

func (t *tap) forward(r *http.Request, sent []byte, action string) (*http.Response, error) {
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

package metricsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// fakeReviews returns a client whose API server knows the tokens "scraper", which is
// permitted, and "other", and a counter of its reviews. It does not answer while down.
func fakeReviews() (client *fake.Clientset, reviews *atomic.Int32, down *atomic.Bool) {
	client, reviews, down = fake.NewClientset(), &atomic.Int32{}, &atomic.Bool{}
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		reviews.Add(1)
		if down.Load() {
			return true, nil, errors.New("connection refused")
		}
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		token := review.Spec.Token
		review.Status.Authenticated = token == "scraper" || token == "other"
		review.Status.User = authenticationv1.UserInfo{
			Username: token, Groups: []string{"system:authenticated"}, Extra: map[string]authenticationv1.ExtraValue{"key": {"value"}},
		}
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		reviews.Add(1)
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		spec := review.Spec
		review.Status.Allowed = spec.User == "scraper" && len(spec.Groups) == 1 && len(spec.Extra["key"]) == 1 &&
			spec.ResourceAttributes == nil && *spec.NonResourceAttributes == authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"}
		return true, review, nil
	})
	return client, reviews, down
}

// serve serves the text "metrics", and returns the address.
func serve(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metrics") })
	go func() { ended <- Serve(ctx, listener, client, metrics, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func request(address, path, authorization string) (status int, body string, err error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableKeepAlives: true,
	}}
	r, err := http.NewRequest(http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if response.ProtoMajor != 1 {
		err = fmt.Errorf("the protocol is %s", response.Proto)
	}
	return response.StatusCode, string(content), err
}

// TestReviews checks which clients get the metrics, and that only permitted ones are
// remembered.
func TestReviews(t *testing.T) {
	client, reviews, down := fakeReviews()
	address := serve(t, client)
	for _, row := range []struct {
		path, authorization string
		down                bool
		status              int
		body                string
		reviews             int32
	}{
		{"/metrics", "", false, 401, "a bearer token is required", 0},
		{"/metrics", "Bearer ", false, 401, "a bearer token is required", 0},
		{"/metrics", "Basic c2NyYXBlcg==", false, 401, "a bearer token is required", 0},
		{"/metrics", "Bearer scraper", true, 503, "did not review", 1},
		{"/metrics", "Bearer scraper", false, 200, "metrics", 2},
		{"/metrics", "Bearer scraper", true, 200, "metrics", 0},
		{"/metrics", "Bearer other", false, 403, "other must be permitted to get the non-resource URL /metrics", 2},
		{"/metrics", "Bearer other", false, 403, "other must be", 2},
		{"/metrics", "Bearer unknown", false, 401, "the token is not valid", 1},
		{"/metrics", "Bearer " + strings.Repeat("x", 2*maxHeaderBytes), false, 431, "", 0},
		{"/debug/pprof/", "Bearer scraper", false, 404, "", 0},
	} {
		down.Store(row.down)
		before := reviews.Load()
		status, body, err := request(address, row.path, row.authorization)
		if err != nil || status != row.status || !strings.Contains(body, row.body) {
			t.Errorf("%s with %.20q: got %d %q, %v, want %d %q", row.path, row.authorization, status, body, err, row.status, row.body)
		}
		if n := reviews.Load() - before; n != row.reviews {
			t.Errorf("%s with %.20q: %d reviews, want %d", row.path, row.authorization, n, row.reviews)
		}
	}
}

// TestOutage checks that a permitted client stays permitted while the API server does not
// answer, unless it refuses the reviews, and that a revoked permission ends.
func TestOutage(t *testing.T) {
	client, _, down := fakeReviews()
	v := newReviewer(client)
	v.ttl = 0
	check := func(token string, want int) {
		t.Helper()
		if got := v.cachedReview(t.Context(), token); got.status != want {
			t.Errorf("%s: got %d %s, want %d", token, got.status, got.message, want)
		}
	}
	check("scraper", 200)
	check("other", 403)
	down.Store(true)
	check("scraper", 200)
	check("other", 503)
	down.Store(false)
	var answer error
	client.PrependReactor("create", "tokenreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.TokenReview{}, answer
	})
	answer = apierrors.NewForbidden(schema.GroupResource{Resource: "tokenreviews"}, "", errors.New("no role"))
	check("scraper", 503)
	answer = nil
	check("scraper", 401)
	answer = errors.New("connection refused")
	check("scraper", 503)
}

// TestManyTokens checks that tokens that are not permitted are reviewed up to a limit, which does
// not apply to a permitted client, and that they do not evict it.
func TestManyTokens(t *testing.T) {
	client, reviews, down := fakeReviews()
	v := newReviewer(client)
	v.ttl = 0
	v.limiter.SetLimit(0)
	count := map[int]int{}
	for i := range maxPermitted + 1 {
		if i%50 == 0 {
			if got := v.cachedReview(t.Context(), "scraper"); got.status != 200 {
				t.Errorf("scraper after %d tokens: got %d %s", i, got.status, got.message)
			}
		}
		count[v.cachedReview(t.Context(), fmt.Sprint("unknown-", i)).status]++
	}
	if count[401] != reviewBurst-1 || count[429] != maxPermitted+1-count[401] {
		t.Errorf("statuses of unknown tokens: %v", count)
	}
	if got, want := int(reviews.Load()), 2*6+reviewBurst-1; got != want { // two reviews of each permitted request
		t.Errorf("%d reviews, want %d", got, want)
	}
	down.Store(true)
	if got := v.cachedReview(t.Context(), "scraper"); got.status != 200 {
		t.Errorf("scraper during an outage: got %d %s", got.status, got.message)
	}
}

// TestFlood checks that a client with connections that it does not use, more than may be
// open, delays others only until these connections time out, and that requests are not
// served faster than the rate limit permits.
func TestFlood(t *testing.T) {
	client, _, _ := fakeReviews()
	address := serve(t, client)
	for range maxConnections + 10 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if status, _, err := request(address, "/metrics", "Bearer scraper"); err != nil || status != http.StatusOK {
		t.Fatalf("got %d, %v", status, err)
	}
	const requests = 2 * connectionRate
	began := time.Now()
	for range requests + connectionBurst {
		if _, _, err := request(address, "/metrics", ""); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < requests*time.Second/connectionRate {
		t.Errorf("%d requests took %s", requests+connectionBurst, took)
	}
}

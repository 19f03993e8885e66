package metricsserver

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

const (
	// reviewTimeout bounds both reviews.
	reviewTimeout = 5 * time.Second

	// reviewTTL is how long a client is permitted after a review, and outageTTL how long it stays
	// permitted while the API server does not answer. maxPermitted is the number of clients
	// that are remembered.
	reviewTTL, outageTTL, maxPermitted = 10 * time.Second, time.Hour, 256

	// reviewRate is how many tokens that were not permitted before are reviewed per second, and
	// reviewBurst how many at once. A pod that sends such tokens to all nodes must not cause
	// many requests to the API server.
	reviewRate, reviewBurst = 2, 10
)

// reviewer decides which clients may get the metrics: those with the token of an account
// that is authorized to get /metrics. It may be used concurrently.
type reviewer struct {
	client kubernetes.Interface
	ttl    time.Duration
	// permitted has the time of the last review of each permitted client, by the hash of its
	// token. Others are not in it, so that they cannot evict permitted ones.
	permitted *cache.LRUExpireCache
	limiter   *rate.Limiter
}

// result is what a request is answered with: http.StatusOK if the client is permitted.
type result struct {
	status  int
	message string
}

func newReviewer(client kubernetes.Interface) *reviewer {
	return &reviewer{
		client: client, ttl: reviewTTL, permitted: cache.NewLRUExpireCache(maxPermitted), limiter: rate.NewLimiter(reviewRate, reviewBurst),
	}
}

// handler returns a handler that passes on the requests of permitted clients.
func (v *reviewer) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if token = strings.TrimSpace(token); !isBearer || token == "" {
			http.Error(w, "a bearer token is required", http.StatusUnauthorized)
			return
		}
		if answer := v.cachedReview(r.Context(), token); answer.status != http.StatusOK {
			http.Error(w, answer.message, answer.status)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// cachedReview returns the result for the token. While the API server does not answer, only
// clients are permitted that were before: the metrics show the outage.
func (v *reviewer) cachedReview(ctx context.Context, token string) result {
	hash := sha256.Sum256([]byte(token))
	cached, known := v.permitted.Get(hash)
	if reviewed, _ := cached.(time.Time); known && time.Since(reviewed) < v.ttl {
		return result{status: http.StatusOK}
	}
	if !known && !v.limiter.Allow() {
		return result{status: http.StatusTooManyRequests, message: "too many tokens to review"}
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	answer, err := v.review(ctx, token)
	switch {
	case err == nil && answer.status == http.StatusOK:
		v.permitted.Add(hash, time.Now(), outageTTL)
		return answer
	case err == nil:
		v.permitted.Remove(hash)
		return answer
	case known && !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err):
		return result{status: http.StatusOK}
	}
	return result{status: http.StatusServiceUnavailable, message: "the API server did not review the token"}
}

// review asks the API server for the account of the token, and for its permission.
func (v *reviewer) review(ctx context.Context, token string) (result, error) {
	authentication, err := v.client.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return result{}, fmt.Errorf("create a TokenReview: %w", err)
	}
	if !authentication.Status.Authenticated {
		return result{status: http.StatusUnauthorized, message: "the token is not valid"}, nil
	}
	user := authentication.Status.User
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	authorization, err := v.client.AuthorizationV1().SubjectAccessReviews().Create(ctx,
		&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
			User:                  user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
		}}, metav1.CreateOptions{})
	if err != nil {
		return result{}, fmt.Errorf("create a SubjectAccessReview: %w", err)
	}
	if !authorization.Status.Allowed {
		message := fmt.Sprintf("%s must be permitted to get the non-resource URL %s", user.Username, path)
		return result{status: http.StatusForbidden, message: message}, nil
	}
	return result{status: http.StatusOK}, nil
}

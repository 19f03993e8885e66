package metricsserver

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

const (
	// reviewTimeout bounds both reviews.
	reviewTimeout = 5 * time.Second

	// reviewTTL is how long a result is valid, and maxResults the number of those that are
	// kept.
	reviewTTL, maxResults = 10 * time.Second, 256
)

// reviewer decides which clients may get the metrics: those with a token of an account that
// RBAC permits it. It may be used concurrently.
type reviewer struct {
	client  kubernetes.Interface
	results *cache.LRUExpireCache // by the hash of the token
}

// result is what a request is answered with: http.StatusOK if the client is permitted.
type result struct {
	status  int
	message string
}

func newReviewer(client kubernetes.Interface) *reviewer {
	return &reviewer{client: client, results: cache.NewLRUExpireCache(maxResults)}
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

// cachedReview returns the result for the token. Without an answer of the API server, no
// client is permitted.
func (v *reviewer) cachedReview(ctx context.Context, token string) result {
	hash := sha256.Sum256([]byte(token))
	if known, ok := v.results.Get(hash); ok {
		return known.(result)
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	answer, err := v.review(ctx, token)
	if err != nil {
		return result{http.StatusServiceUnavailable, "the API server did not review the token"}
	}
	v.results.Add(hash, answer, reviewTTL)
	return answer
}

// review asks the API server for the account of the token, and for its permission.
func (v *reviewer) review(ctx context.Context, token string) (result, error) {
	authentication, err := v.client.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return result{}, fmt.Errorf("create a TokenReview: %w", err)
	}
	if !authentication.Status.Authenticated {
		return result{http.StatusUnauthorized, "the token is not valid"}, nil
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
		return result{http.StatusForbidden, fmt.Sprintf("%s must be permitted to get the non-resource URL %s", user.Username, path)}, nil
	}
	return result{status: http.StatusOK}, nil
}

package aws

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// callError is a failed call. Its text is the same for the same failure: it has no
// request ID.
type callError struct {
	action, code, message string
	cause                 error
}

// Error ends without the separator where AWS sent a code without a message.
func (f *callError) Error() string {
	return strings.TrimSuffix(f.action+": "+f.code+": "+f.message, ": ")
}

func (f *callError) Unwrap() error { return f.cause }

// explainError converts an error of the SDK into a callError.
func explainError(err error) error {
	f := &callError{cause: err}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		f.action = op.Operation()
	}
	var credentials *credentialsError
	var api smithy.APIError
	var dial *url.Error
	switch {
	// The cause is a failure of another API, or none at all, and not a response of
	// the called action.
	case errors.As(err, &credentials):
		f.code, f.message = noCredentials, credentials.Error()
	case errors.As(err, &api):
		f.code, f.message = api.ErrorCode(), api.ErrorMessage()
	case errors.As(err, &dial):
		f.code, f.message = "no response", dial.Err.Error()
	// The SDK failed before or after the request.
	case op != nil:
		f.code, f.message = "failed", op.Unwrap().Error()
	default:
		f.code, f.message = "failed", err.Error()
	}
	if f.code == "UnauthorizedOperation" {
		// The rest of the message is an encoded text that differs each time.
		f.message, _, _ = strings.Cut(f.message, " Encoded authorization failure message")
	}
	return f
}

// noCredentials is the code of a callError for which the SDK had no credentials.
const noCredentials = "no credentials"

// credentialsError is a failure to retrieve credentials.
type credentialsError struct{ cause error }

// Error has the sources of credentials in addition to the failure of the last one
// that the SDK tried: it does not try the others after an invalid configuration.
func (e *credentialsError) Error() string {
	return strings.TrimPrefix(explainError(e.cause).Error(), ": ") +
		"; associate the controller with a role that has the policy of docs/aws.md: " +
		"by EKS Pod Identity, IRSA, or the instance profile of its node (hop limit 2)"
}

func (e *credentialsError) Unwrap() error { return e.cause }

// credentialsProvider marks the failures of a provider of credentials.
type credentialsProvider struct{ aws.CredentialsProvider }

// Retrieve returns a credentialsError unless the caller has ended the call.
func (p credentialsProvider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := p.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = &credentialsError{err}
	}
	return c, err
}

// isCode reports whether a call failed with one of the codes.
func isCode(err error, codes ...string) bool {
	var f *callError
	return errors.As(err, &f) && slices.Contains(codes, f.code)
}

// codeOf returns the value of the metric's label "code" for the result of one
// attempt, before explainError has converted it.
func codeOf(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return "OK"
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return "Unanswered"
}

// notFoundCodes are the codes of Elastic Load Balancing for what does not exist.
var notFoundCodes = []string{"LoadBalancerNotFound", "TargetGroupNotFound", "ListenerNotFound"}

// errCodeNoGroup is the code of EC2 for a security group that does not exist.
const errCodeNoGroup = "InvalidGroup.NotFound"

// isGone reports whether a call failed because an object does not exist that an
// earlier call has returned, or that an annotation names.
func isGone(err error) bool {
	return isCode(err, notFoundCodes...) ||
		isCode(err, errCodeNoGroup, "InvalidSecurityGroup", "SubnetNotFound", "InvalidSubnetID.NotFound")
}

// errInUse is the failure to delete an object that AWS still uses.
var errInUse = errors.New("still in use")

// reasonCodes has the codes of the EC2 and Elastic Load Balancing APIs that a user
// or administrator can resolve (EC2, "Error codes for the Amazon EC2 API"; Elastic
// Load Balancing, "Common Errors" and the errors of each action). Other failures are
// retried (CloudFailed).
var reasonCodes = map[v1alpha1.Reason][]string{
	// The policy of the role, its credentials, the clock or the account must be
	// changed.
	v1alpha1.PermissionDenied: {
		noCredentials, "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "AuthFailure",
		"InvalidClientTokenId", "UnrecognizedClientException", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
		"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException",
		"ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeTooSkewed",
		"OptInRequired", "Blocked", "PendingVerification", "OperationNotPermitted",
	},
	// A quota of the account must be raised, or something else deleted.
	v1alpha1.QuotaExceeded: {
		"TooManyLoadBalancers", "TooManyListeners", "TooManyTargetGroups", "TooManyTargets", "TooManyTags", "TooManyCertificates",
		"TooManyRegistrationsForTargetId", "TooManyUniqueTargetGroupsPerLoadBalancer", "TargetGroupAssociationLimit",
		"SecurityGroupLimitExceeded", "RulesPerSecurityGroupLimitExceeded", "SecurityGroupsPerInterfaceLimitExceeded",
		"AddressLimitExceeded", "NetworkInterfaceLimitExceeded", "TagLimitExceeded", "ResourceLimitExceeded",
	},
	v1alpha1.NoSubnet: {
		"InvalidSubnet", "SubnetNotFound", "InvalidSubnetID.NotFound", "InsufficientFreeAddressesInSubnet", "AvailabilityZoneNotSupported",
	},
	// The list of the sync did not have the object that has the name. The next one
	// reads its tags.
	v1alpha1.NameTaken: {"DuplicateLoadBalancerName", "DuplicateTargetGroupName", "InvalidGroup.Duplicate"},
	// The flag --aws-vpc-id names a VPC that does not exist.
	v1alpha1.CloudNotConfigured: {"InvalidVpcID.NotFound"},
	// An annotation refers to something that does not exist or that is in use, such
	// as an Elastic IP address, or combines what AWS does not support.
	v1alpha1.InvalidRequest: {
		"CertificateNotFound", "UnsupportedCertificate", "SSLPolicyNotFound", "ALPNPolicyNotFound", "ALPNPolicyNotSupported",
		"AllocationIdNotFound", "InvalidAllocationID.NotFound", "InvalidIPAddress.InUse", "ResourceInUse",
		"InvalidSecurityGroup", errCodeNoGroup, "InvalidGroupId.Malformed", "InvalidSecurityGroupID.NotFound",
		"InvalidConfigurationRequest", "InvalidScheme", "UnsupportedProtocol", "IncompatibleProtocols", "InvalidTags", "DuplicateTagKeys",
		"ValidationError", "ValidationException", "InvalidParameter", "InvalidParameterValue", "InvalidParameterCombination",
	},
}

// asRefusal converts a callError that a user or administrator must resolve into a
// Refusal. It returns other errors unchanged.
func asRefusal(err error) error {
	var f *callError
	var refusal *v1alpha1.Refusal
	// A refusal can be joined with a failed update of targets.
	if !errors.As(err, &f) || errors.As(err, &refusal) {
		return err
	}
	for reason, codes := range reasonCodes {
		if slices.Contains(codes, f.code) {
			// The text does not contain a request ID (callError), so that the
			// condition does not change with each retry.
			return newRefusal(reason, "%s", f.Error())
		}
	}
	return err
}

// explainFullGroup returns a Refusal with the owner of a security group that has no
// room for another rule: EC2's message does not identify the group.
func explainFullGroup(err error, id, owner string) error {
	if !isCode(err, "RulesPerSecurityGroupLimitExceeded") {
		return err
	}
	return newRefusal(v1alpha1.QuotaExceeded,
		"security group %s of the %s is full: remove rules from it, or raise the quota of inbound rules per security group (%s)", id, owner, err)
}

func newRefusal(reason v1alpha1.Reason, format string, args ...any) *v1alpha1.Refusal {
	return &v1alpha1.Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

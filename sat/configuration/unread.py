"""The keys of section `args` that are accepted and never read."""
from common.unread import Unread

SETTINGS = {
    "mode": Unread("the command decides: sample_video.py or train_video.py", ("inference", "pretrain", "finetune")),
    "force_inference": Unread("inference is never refused", (True,)),
}

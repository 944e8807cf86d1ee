"""Ask the embedded model about every file in examples/media: `make demo`."""

from pathlib import Path

from transformers.utils import logging

from ibllm_tools import Assistant, Attachment

MEDIA = Path(__file__).with_name("media")
QUESTIONS = {
    "image": "What is it?",
    "audio": "What is making this sound?",
    "video": "What is in this video?",
    "depth": "What is in the depth map?",
    "point": "What is this 3D model?",
}


def main() -> None:
    logging.disable_progress_bar()  # loading takes a moment only
    with Assistant.load() as assistant:
        for path in sorted(MEDIA.iterdir()):
            modality = Attachment(path).modality
            if modality in QUESTIONS:
                answer = assistant.ask(QUESTIONS[modality], path)
                print(f"{modality:6}  {path.name:20}  {answer.question:28}  {answer.text}")


if __name__ == "__main__":
    main()
